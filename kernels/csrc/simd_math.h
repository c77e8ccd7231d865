// Vector arithmetic for the SIMD levels, on the compiler's own vector types.
//
// Included only by the per-level files, which define ADAPTIVE_SEARCH_LANES (floats in a
// register) first. No standard library header but the two below: an inline function
// of theirs, emitted here with this level's instructions, could be the copy that the linker
// keeps for the whole program.
#pragma once

#include <cstddef>
#include <cstdint>

namespace adaptive_search {
namespace {

using std::ptrdiff_t;
using std::size_t;

constexpr size_t kLanes = ADAPTIVE_SEARCH_LANES;
using Vec = float __attribute__((vector_size(4 * ADAPTIVE_SEARCH_LANES)));
using Word = std::uint32_t __attribute__((vector_size(4 * ADAPTIVE_SEARCH_LANES)));
using Sums = std::int32_t __attribute__((vector_size(4 * ADAPTIVE_SEARCH_LANES)));

#define ADAPTIVE_SEARCH_INLINE static inline __attribute__((always_inline))

template <class T>
ADAPTIVE_SEARCH_INLINE T *row(T *base, ptrdiff_t stride, size_t index) {
    return base + stride * static_cast<ptrdiff_t>(index);
}

ADAPTIVE_SEARCH_INLINE Vec fill(float value) { return value - Vec{}; }

ADAPTIVE_SEARCH_INLINE Vec load(const float *p) {
    Vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

ADAPTIVE_SEARCH_INLINE void store(float *p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }

// The first count lanes; the others are zero. A constant count of kLanes is a plain load.
ADAPTIVE_SEARCH_INLINE Vec load(const float *p, size_t count) {
    if (count == kLanes) return load(p);
    Vec v{};
    for (size_t i = 0; i < count; ++i) v[i] = p[i];
    return v;
}

ADAPTIVE_SEARCH_INLINE void store(float *p, Vec v, size_t count) {
    if (count == kLanes) return store(p, v);
    for (size_t i = 0; i < count; ++i) p[i] = v[i];
}

// Calls f(start, count) for each run of kLanes out of n, and for what is left.
template <class F>
ADAPTIVE_SEARCH_INLINE void for_lanes(size_t n, F f) {
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
    if (i < n) f(i, n - i);
}

ADAPTIVE_SEARCH_INLINE float sum_lanes(Vec v) {
    float part[kLanes];
    __builtin_memcpy(part, &v, sizeof v);
    for (size_t half = kLanes / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; ++i) part[i] += part[i + half];
    }
    return part[0];
}

ADAPTIVE_SEARCH_INLINE Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

// e^x within 2 ulp; 0 below -87.3 (no denormals), infinity above 88.3; NaN stays NaN.
// Cody-Waite reduction to |r| <= ln(2)/2, then the minimax polynomial of Cephes' expf.
ADAPTIVE_SEARCH_INLINE Vec exp_lanes(Vec x) {
    const Vec low = fill(-87.336544f), high = fill(89.0f);  // 2^128 is infinity
    Vec clamped = x > high ? high : x;
    clamped = clamped < low ? low : clamped;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
    const Vec magic = fill(12582912.0f);
    const Vec shifted = clamped * fill(1.44269504088896341f) + magic;
    const Vec n = shifted - magic;
    Vec r = clamped - n * fill(0.693359375f);
    r = r - n * fill(-2.12194440e-4f);
    Vec p = fill(1.9875691500e-4f);
    p = p * r + fill(1.3981999507e-3f);
    p = p * r + fill(8.3334519073e-3f);
    p = p * r + fill(4.1665795894e-2f);
    p = p * r + fill(1.6666665459e-1f);
    p = p * r + fill(5.0000001201e-1f);
    p = p * (r * r) + (r + fill(1.0f));
    const Word power = ((Word)shifted << 23) + 0x3f800000u;
    return x < low ? Vec{} : p * (Vec)power;
}

// log(1 + u) for u in [0, 1], as 2 atanh(u / (2 + u)): relative error a few ulp.
ADAPTIVE_SEARCH_INLINE Vec log1p_lanes(Vec u) {
    const Vec s = u / (u + fill(2.0f));
    const Vec q = s * s;
    Vec p = fill(1.0f / 15.0f);
    p = p * q + fill(1.0f / 13.0f);
    p = p * q + fill(1.0f / 11.0f);
    p = p * q + fill(1.0f / 9.0f);
    p = p * q + fill(1.0f / 7.0f);
    p = p * q + fill(1.0f / 5.0f);
    p = p * q + fill(1.0f / 3.0f);
    p = p * q + fill(1.0f);
    return (s + s) * p;
}

ADAPTIVE_SEARCH_INLINE Vec silu_lanes(Vec x) { return x / (fill(1.0f) + exp_lanes(-x)); }

ADAPTIVE_SEARCH_INLINE Vec softplus_lanes(Vec x) {
    const Vec magnitude = x < Vec{} ? -x : x;
    return maximum(x, Vec{}) + log1p_lanes(exp_lanes(-magnitude));
}

}  // namespace
}  // namespace adaptive_search
