// Scores of float16 rows, stored as bands, against float32 queries.
#pragma once

#include <cstdint>

namespace adaptive_search {

// A band: rows of `width` float16 numbers (as bits), one after the other.
struct Band {
    const std::uint16_t* data;
    std::int64_t width;
};

constexpr int kLanes = 32;

// Dot product of a query with one row. The coordinates of a row are its slices of the bands, in
// order; the query holds them in one piece. The sums go on from what the 32 lanes hold, and stay in
// them: the lanes of the lower bands, kept, save a later call from reading these again.
//
// Order of summation, the same at every level, so that a score has the same bits on every machine
// and however the bands are divided among calls: coordinate j of a band is multiplied, rounded, and
// added to lane j % 32; the result is the lanes folded in halves (lane i += lane i + 16, then 8, 4,
// 2, 1). Hence no fused multiply-add in these files.
using DotF16 = float (*)(const Band* bands, int nbands, std::int64_t row, const float* query,
                         float* lanes);

float dot_f16_reference(const Band* bands, int nbands, std::int64_t row, const float* query,
                        float* lanes);
float dot_f16_avx2(const Band* bands, int nbands, std::int64_t row, const float* query,
                   float* lanes);
float dot_f16_avx512(const Band* bands, int nbands, std::int64_t row, const float* query,
                     float* lanes);
float dot_f16_neon(const Band* bands, int nbands, std::int64_t row, const float* query,
                   float* lanes);

// The one of the level in force.
DotF16 active_dot_f16();

}  // namespace adaptive_search
