// The products of a tile with nothing to load or to store: the most that a linear layer can reach.
#pragma once

#include "simd_matrix.h"

namespace adaptive_search {
namespace {

// `rounds` products for each vector of a tile of kTileRows; step(total, a, b) adds one.
template <class V, class Step>
ADAPTIVE_SEARCH_INLINE void spin_tile(size_t rounds, Step step) {
    V start[kTileRows][2] = {}, a{}, b{};
    __asm__ volatile("" : "+m"(start), "+m"(b));  // unknown, so that nothing is left out
    V totals[kTileRows][2];
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r) {
        totals[r][0] = start[r][0];
        totals[r][1] = start[r][1];
    }
    for (size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (int r = 0; r < kTileRows; ++r) {
            __asm__ volatile("" : "+m"(a));
            step(totals[r][0], a, b);
            step(totals[r][1], b, a);
        }
    }
    V all{};
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r) all += totals[r][0] + totals[r][1];
    __asm__ volatile("" : : "m"(all));
}

}  // namespace
}  // namespace adaptive_search
