// Products of bfloat16 pairs on AVX-512 with BF16: two a lane and instruction.
#pragma once

#include <immintrin.h>

#include "simd_matrix.h"

namespace adaptive_search {
namespace {

// As assembly for the same reason as in linear_i8_avx512.cpp.
ADAPTIVE_SEARCH_INLINE void add_pairs(Vec &totals, Vec weights, Vec halves) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(totals) : "v"(weights), "v"(halves));
}

ADAPTIVE_SEARCH_INLINE Vec load_pairs(const void *p) {
    Vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <int R>
ADAPTIVE_SEARCH_INLINE void multiply_pairs(Tile<R> &tile, const std::uint16_t *halves,
                                           ptrdiff_t stride, const std::uint16_t *weights,
                                           size_t groups) {
    for (size_t g = 0; g < groups; ++g, halves += 2, weights += 2 * kPanel) {
        const Vec w0 = load_pairs(weights), w1 = load_pairs(weights + 2 * kLanes);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            std::uint32_t pair;
            __builtin_memcpy(&pair, halves + r * stride, sizeof pair);
            const Vec spread = (Vec)(pair - Word{});
            add_pairs(tile.v[r][0], w0, spread);
            add_pairs(tile.v[r][1], w1, spread);
        }
    }
}

}  // namespace
}  // namespace adaptive_search
