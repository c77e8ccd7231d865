// Rows of activations as floats, in fp32 and in bf16 that is computed in float32.
#pragma once

#include "simd_operand.h"

namespace adaptive_search {
namespace {

// The upper halves of floats rounded to bfloat16, ties to even; NaN stays NaN.
ADAPTIVE_SEARCH_INLINE Word bf16_lanes(Vec v) {
    const Word bits = (Word)v;
    const Word rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    return (v == v ? rounded : bits | 0x400000u) & 0xffff0000u;
}

inline Operand borrow_rows(const PlainRows &rows, size_t m, size_t k, float *) {
    return {m, k, rows.a, rows.lda, nullptr, nullptr};
}

template <class Kind, bool narrow>
Operand store_rows(const Kind &rows, size_t m, size_t k, float *space) {
    const size_t stride = round_up(k, 16);
    for (size_t t = 0; t < m; ++t) {
        const Vec scale = fill(survey(rows, t, k).scale);
        for_lanes(k, [&](size_t c, size_t count) {
            const Vec v = value(rows, t, c, count) * scale;
            store(space + t * stride + c, narrow ? (Vec)bf16_lanes(v) : v);
        });
    }
    return {m, k, space, static_cast<ptrdiff_t>(stride), nullptr, nullptr};
}

}  // namespace
}  // namespace adaptive_search
