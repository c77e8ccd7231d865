// Rows of activations in the forms that products of floats read.
#pragma once

#include "ops.h"
#include "simd_math.h"

namespace adaptive_search {
namespace {

// fp32: the rows themselves.
inline Operand borrow_rows(const float *a, ptrdiff_t lda, size_t m, size_t k, float *) {
    return {m, k, a, lda, nullptr, nullptr};
}

// The upper halves of floats rounded to bfloat16, ties to even; NaN stays NaN.
ADAPTIVE_SEARCH_INLINE Word bf16_lanes(Vec v) {
    const Word bits = (Word)v;
    const Word rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    return (v == v ? rounded : bits | 0x400000u) & 0xffff0000u;
}

// bf16 computed in float32: rounded, but stored as floats.
inline Operand round_rows(const float *a, ptrdiff_t lda, size_t m, size_t k, float *space) {
    const size_t stride = round_up(k, 16);
    for (size_t t = 0; t < m; ++t) {
        const float *values = row(a, lda, t);
        for_lanes(k, [&](size_t c, size_t count) {
            store(space + t * stride + c, (Vec)bf16_lanes(load(values + c, count)));
        });
    }
    return {m, k, space, static_cast<ptrdiff_t>(stride), nullptr, nullptr};
}

}  // namespace
}  // namespace adaptive_search
