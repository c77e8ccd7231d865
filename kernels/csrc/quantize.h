// Narrow numbers, one at a time: how weights are packed and the reference level computes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace adaptive_search {

// The upper half of a float, rounded to the nearest bfloat16, ties to even; NaN stays NaN.
std::uint16_t narrow_bf16(float value);
float widen_bf16(std::uint16_t half);
inline float round_bf16(float value) { return widen_bf16(narrow_bf16(value)); }

// codes = round(values / scale), and the scale: the largest magnitude / 127. A row that is not
// finite gets a scale that is not finite either.
float quantize_row(const float *values, std::size_t n, std::int8_t *codes);

}  // namespace adaptive_search
