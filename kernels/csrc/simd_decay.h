// How fast the state of one head fades between the positions of a chunk.
//
// Decays are kept as running products of exp(dt A) <= 1 and never as differences of cumulative
// sums, which would cancel after a long decay.
#pragma once

#include "ops.h"
#include "simd_matrix.h"

namespace adaptive_search {
namespace {

constexpr size_t kChunkVectors = kChunk / kLanes;
static_assert(kChunk % kPanel == 0, "a chunk must be whole panels");

struct Decay {
    float from_start[kChunk];  // product of exp(dt A) up to and with t
    float to_end[kChunk];      // product after t
};

// The decays of one head over a chunk. Calls put(t, between) for each position with what is left
// at t of every position s, kChunkVectors vectors: one at s = t, zero after it.
template <class Put>
ADAPTIVE_SEARCH_INLINE void decay_positions(const Scan &s, size_t head, size_t start, size_t rows,
                                            Decay &decay, Put put) {
    float step[kChunk] = {};
    for (size_t t = 0; t < rows; ++t) step[t] = row(s.dt, s.lddt, start + t)[head];
    for (size_t t = 0; t < kChunk; t += kLanes) {
        store(step + t, exp_lanes(load(step + t) * fill(s.A[head])));
    }
    float product = 1.0f;
    for (size_t t = 0; t < rows; ++t) decay.from_start[t] = product *= step[t];
    product = 1.0f;
    for (size_t t = rows; t-- > 0; product *= step[t]) decay.to_end[t] = product;

    Word lane[kChunkVectors];
    Vec between[kChunkVectors] = {};
    for (size_t v = 0; v < kChunkVectors; ++v) {
        for (size_t i = 0; i < kLanes; ++i) lane[v][i] = static_cast<unsigned>(v * kLanes + i);
    }
    for (size_t t = 0; t < rows; ++t) {
        const Word now = static_cast<unsigned>(t) - Word{};
        for (size_t v = 0; v < kChunkVectors; ++v) {
            between[v] *= fill(step[t]);
            between[v] = lane[v] == now ? fill(1.0f) : between[v];
        }
        put(t, between);
    }
}

}  // namespace
}  // namespace adaptive_search
