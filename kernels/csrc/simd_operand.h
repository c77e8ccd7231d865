// What rows of activations are made of, whatever the precision they are then stored in.
//
// Each kind has survey(), one pass over a row, and value(), of which any number of passes follow:
// a row's values are the latter times the former's scale.
#pragma once

#include "ops.h"
#include "simd_math.h"

namespace adaptive_search {
namespace {

// Of one row: the largest magnitude of value(), NaN if there is one, and what scales them all.
struct Survey {
    float peak, scale;
};

// Bits of magnitudes are in the order of the magnitudes, and those of NaN beyond all others'.
ADAPTIVE_SEARCH_INLINE Word higher(Word peak, Vec v) {
    const Word magnitude = (Word)v & 0x7fffffffu;
    return magnitude > peak ? magnitude : peak;
}

ADAPTIVE_SEARCH_INLINE float highest(Word peak) {
    std::uint32_t largest = 0;
    for (size_t i = 0; i < kLanes; ++i) largest = peak[i] > largest ? peak[i] : largest;
    float value;
    __builtin_memcpy(&value, &largest, sizeof value);
    return value;
}

ADAPTIVE_SEARCH_INLINE float norm_scale(Vec squares, size_t n, float eps) {
    return 1.0f / __builtin_sqrtf(sum_lanes(squares) / static_cast<float>(n) + eps);
}

ADAPTIVE_SEARCH_INLINE Vec value(const PlainRows &rows, size_t t, size_t c, size_t count) {
    return load(row(rows.a, rows.lda, t) + c, count);
}

ADAPTIVE_SEARCH_INLINE Survey survey(const PlainRows &rows, size_t t, size_t n) {
    Word peak{};
    for_lanes(n, [&](size_t c, size_t count) { peak = higher(peak, value(rows, t, c, count)); });
    return {highest(peak), 1.0f};
}

ADAPTIVE_SEARCH_INLINE Vec value(const NormRows &rows, size_t t, size_t c, size_t count) {
    return load(row(rows.x, rows.ldx, t) + c, count) * load(rows.weight + c, count);
}

ADAPTIVE_SEARCH_INLINE Survey survey(const NormRows &rows, size_t t, size_t n) {
    Word peak{};
    Vec squares{};
    for_lanes(n, [&](size_t c, size_t count) {
        const Vec v = load(row(rows.x, rows.ldx, t) + c, count);
        squares += v * v;
        peak = higher(peak, v * load(rows.weight + c, count));
    });
    return {highest(peak), norm_scale(squares, n, rows.eps)};
}

ADAPTIVE_SEARCH_INLINE Vec value(const GatedRows &rows, size_t t, size_t c, size_t count) {
    return load(row(rows.y, rows.ldy, t) + c, count);
}

ADAPTIVE_SEARCH_INLINE Survey survey(const GatedRows &rows, size_t t, size_t n) {
    Word peak{};
    Vec squares{};
    for_lanes(n, [&](size_t c, size_t count) {
        const Vec v = value(rows, t, c, count) *
                      silu_lanes(load(row(rows.z, rows.ldz, t) + c, count));
        const Vec weighted = v * load(rows.weight + c, count);
        squares += v * v;
        peak = higher(peak, weighted);
        store(row(rows.y, rows.ldy, t) + c, weighted, count);
    });
    return {highest(peak), norm_scale(squares, n, rows.eps)};
}

ADAPTIVE_SEARCH_INLINE Vec value(const SwigluRows &rows, size_t t, size_t c, size_t count) {
    return load(row(rows.gate, rows.ldg, t) + c, count);
}

ADAPTIVE_SEARCH_INLINE Survey survey(const SwigluRows &rows, size_t t, size_t n) {
    Word peak{};
    for_lanes(n, [&](size_t c, size_t count) {
        const Vec v = silu_lanes(value(rows, t, c, count)) *
                      load(row(rows.up, rows.ldu, t) + c, count);
        peak = higher(peak, v);
        store(row(rows.gate, rows.ldg, t) + c, v, count);
    });
    return {highest(peak), 1.0f};
}

}  // namespace
}  // namespace adaptive_search
