// Vectors in the form in which an index stores them: float16 bands, and their squared lengths.
#pragma once

#include <cstdint>
#include <vector>

namespace adaptive_search {

// A band to be written: rows of `width` float16 numbers (as bits), one after the other.
struct BandRows {
    std::uint16_t* data;
    std::int64_t width;
};

// Writes a vector as row `number` of the bands, brought to unit length first if `unit`, and the
// squared length of each band as it is then. Sums run in 8 lanes at every level, without fused
// multiply-add, so that a row has the same bits on every machine.
using SplitRow = void (*)(const float* vector, std::int64_t width, std::int64_t number, bool unit,
                          const std::vector<BandRows>& bands, double* squares);

void split_row_reference(const float* vector, std::int64_t width, std::int64_t number, bool unit,
                         const std::vector<BandRows>& bands, double* squares);
void split_row_avx2(const float* vector, std::int64_t width, std::int64_t number, bool unit,
                    const std::vector<BandRows>& bands, double* squares);
void split_row_avx512(const float* vector, std::int64_t width, std::int64_t number, bool unit,
                      const std::vector<BandRows>& bands, double* squares);
void split_row_neon(const float* vector, std::int64_t width, std::int64_t number, bool unit,
                    const std::vector<BandRows>& bands, double* squares);

// The one of the level in force.
SplitRow active_split_row();

}  // namespace adaptive_search
