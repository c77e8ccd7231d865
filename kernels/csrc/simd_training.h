// Forward and backward of the operations that treat rows or channels on their own.
#pragma once

#include "simd_matrix.h"
#include "training_ops.h"

namespace adaptive_search {
namespace {

using HalfWord = std::uint16_t __attribute__((vector_size(2 * ADAPTIVE_SEARCH_LANES)));

ADAPTIVE_SEARCH_INLINE Vec load(const BFloat16 *p) {
    HalfWord bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return (Vec)(__builtin_convertvector(bits, Word) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
ADAPTIVE_SEARCH_INLINE HalfWord round_lanes(Vec v) {
    const Word bits = (Word)v;
    const Word rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Word quiet = 0x7fc0u - Word{};
    return __builtin_convertvector(v == v ? rounded : quiet, HalfWord);
}

ADAPTIVE_SEARCH_INLINE void store(BFloat16 *p, Vec v) {
    const HalfWord bits = round_lanes(v);
    __builtin_memcpy(p, &bits, sizeof bits);
}

ADAPTIVE_SEARCH_INLINE Vec load(const BFloat16 *p, size_t count) {
    if (count == kLanes) return load(p);
    BFloat16 padded[kLanes] = {};
    for (size_t i = 0; i < count; ++i) padded[i] = p[i];
    return load(padded);
}

ADAPTIVE_SEARCH_INLINE void store(BFloat16 *p, Vec v, size_t count) {
    if (count == kLanes) return store(p, v);
    const HalfWord bits = round_lanes(v);
    for (size_t i = 0; i < count; ++i) p[i].bits = bits[i];
}

template <class T>
ADAPTIVE_SEARCH_INLINE T *at(const Sequences<T> &s, size_t sequence, size_t position) {
    return s.data + s.batch_stride * static_cast<ptrdiff_t>(sequence) +
           s.row_stride * static_cast<ptrdiff_t>(position);
}

template <class T>
ADAPTIVE_SEARCH_INLINE T *at(const Rows2d<T> &rows, size_t index) {
    return row(rows.data, rows.stride, index);
}

ADAPTIVE_SEARCH_INLINE Vec sigmoid_lanes(Vec x) {
    return fill(1.0f) / (fill(1.0f) + exp_lanes(-x));
}

// The derivative of x sigmoid(x), given s = sigmoid(x).
ADAPTIVE_SEARCH_INLINE Vec silu_slope(Vec x, Vec s) { return s + x * s * (fill(1.0f) - s); }

struct Taps {
    Vec tap[kTaps];
    Vec bias;
};

// The inputs are those of the position and of the three before, oldest first.
ADAPTIVE_SEARCH_INLINE Vec apply(const Taps &taps, const Vec *x) {
    return taps.bias + (taps.tap[0] * x[0] + taps.tap[1] * x[1]) +
           (taps.tap[2] * x[2] + taps.tap[3] * x[3]);
}

template <class T>
ADAPTIVE_SEARCH_INLINE Taps load_taps(const Conv<T> &a, size_t c, size_t count) {
    Taps taps;
    for (size_t j = 0; j < kTaps; ++j) taps.tap[j] = load(a.weight + j * a.channels + c, count);
    taps.bias = load(a.bias + c, count);
    return taps;
}

// Rows that a walk down the positions runs ahead of memory: the hardware does not follow
// strides of kilobytes.
constexpr size_t kAhead = 12;

template <class T>
ADAPTIVE_SEARCH_INLINE void prefetch(const Sequences<T> &s, size_t sequence, size_t t, size_t end,
                                     size_t c) {
    __builtin_prefetch(at(s, sequence, smaller(t + kAhead, end)) + c);
}

// Drops the oldest value and appends one.
ADAPTIVE_SEARCH_INLINE void shift_in(Vec *window, Vec value) {
    for (size_t j = 0; j + 1 < kTaps; ++j) window[j] = window[j + 1];
    window[kTaps - 1] = value;
}

template <class T>
void conv_forward(const Conv<T> &a, size_t begin, size_t end) {
    for_lanes(end - begin, [&](size_t i, size_t count) {
        const size_t c = begin + i;
        const Taps taps = load_taps(a, c, count);
        for (size_t b = 0; b < a.batch; ++b) {
            Vec x[kTaps] = {};
            for (size_t t = 0; t < a.seqlen; ++t) {
                prefetch(a.x, b, t, a.seqlen - 1, c);
                prefetch(a.y, b, t, a.seqlen - 1, c);
                shift_in(x, load(at(a.x, b, t) + c, count));
                store(at(a.y, b, t) + c, silu_lanes(apply(taps, x)), count);
            }
        }
    });
}

template <class T>
void conv_backward(const Conv<T> &a, size_t begin, size_t end) {
    for_lanes(end - begin, [&](size_t i, size_t count) {
        const size_t c = begin + i;
        const Taps taps = load_taps(a, c, count);
        Vec dtap[kTaps] = {}, dbias{};
        for (size_t b = 0; b < a.batch; ++b) {
            // An input meets the slopes of its own position and of the three after it, so dx
            // follows three positions behind.
            Vec x[kTaps] = {}, slope[kTaps] = {};
            const auto put = [&](size_t t) {
                const Vec dx = (taps.tap[3] * slope[0] + taps.tap[2] * slope[1]) +
                               (taps.tap[1] * slope[2] + taps.tap[0] * slope[3]);
                store(at(a.dx, b, t) + c, dx, count);
            };
            for (size_t t = 0; t < a.seqlen; ++t) {
                prefetch(a.x, b, t, a.seqlen - 1, c);
                prefetch(a.dy, b, t, a.seqlen - 1, c);
                prefetch(a.dx, b, t, a.seqlen - 1, c);
                shift_in(x, load(at(a.x, b, t) + c, count));
                const Vec sum = apply(taps, x);
                const Vec dsum = load(at(a.dy, b, t) + c, count) *
                                 silu_slope(sum, sigmoid_lanes(sum));
                shift_in(slope, dsum);
                for (size_t j = 0; j < kTaps; ++j) dtap[j] += dsum * x[j];
                dbias += dsum;
                if (t + 1 >= kTaps) put(t + 1 - kTaps);
            }
            for (size_t t = a.seqlen; t < a.seqlen + kTaps - 1; ++t) {
                shift_in(slope, Vec{});
                if (t + 1 >= kTaps) put(t + 1 - kTaps);
            }
        }
        for (size_t j = 0; j < kTaps; ++j) store(a.dweight + j * a.channels + c, dtap[j], count);
        store(a.dbias + c, dbias, count);
    });
}

ADAPTIVE_SEARCH_INLINE float inverse_rms(float squares, size_t width, float eps) {
    return 1.0f / __builtin_sqrtf(squares / static_cast<float>(width) + eps);
}

template <class T>
void norm_forward(const Norm<T> &a, size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
        const float *x = at(a.x, t);
        Vec squares{};
        for_lanes(a.width, [&](size_t c, size_t count) {
            const Vec v = load(x + c, count);
            squares += v * v;
        });
        const Vec scale = fill(inverse_rms(sum_lanes(squares), a.width, a.eps));
        for_lanes(a.width, [&](size_t c, size_t count) {
            store(at(a.out, t) + c, load(x + c, count) * scale * load(a.weight + c, count), count);
        });
    }
}

// With v the input and g = dout weight: dv = scale g - shift v, where scale is 1 / rms and
// shift makes dv what scaling v cannot change.
struct NormSlope {
    float scale, shift;
};

ADAPTIVE_SEARCH_INLINE NormSlope norm_slope(Vec squares, Vec along, size_t width, float eps) {
    const float scale = inverse_rms(sum_lanes(squares), width, eps);
    return {scale, scale * scale * scale * sum_lanes(along) / static_cast<float>(width)};
}

template <class T>
void norm_backward(const Norm<T> &a, size_t begin, size_t end, float *dweight) {
    for (size_t t = begin; t < end; ++t) {
        const float *x = at(a.x, t);
        const T *dout = at(a.dout, t);
        Vec squares{}, along{};
        for_lanes(a.width, [&](size_t c, size_t count) {
            const Vec v = load(x + c, count);
            squares += v * v;
            along += v * load(dout + c, count) * load(a.weight + c, count);
        });
        const NormSlope slope = norm_slope(squares, along, a.width, a.eps);
        const Vec scale = fill(slope.scale), shift = fill(slope.shift);
        for_lanes(a.width, [&](size_t c, size_t count) {
            const Vec v = load(x + c, count), scaled = load(dout + c, count) * scale;
            store(dweight + c, load(dweight + c, count) + scaled * v, count);
            store(at(a.dx, t) + c, scaled * load(a.weight + c, count) - shift * v, count);
        });
    }
}

template <class T>
void gated_norm_forward(const GatedNorm<T> &a, size_t begin, size_t end, float *scratch) {
    for (size_t t = begin; t < end; ++t) {
        Vec squares{};
        for_lanes(a.width, [&](size_t c, size_t count) {
            const Vec v = load(at(a.y, t) + c, count) * silu_lanes(load(at(a.z, t) + c, count));
            squares += v * v;
            store(scratch + c, v, count);
        });
        const Vec scale = fill(inverse_rms(sum_lanes(squares), a.width, a.eps));
        for_lanes(a.width, [&](size_t c, size_t count) {
            const Vec v = load(scratch + c, count) * scale * load(a.weight + c, count);
            store(at(a.out, t) + c, v, count);
        });
    }
}

template <class T>
void gated_norm_backward(const GatedNorm<T> &a, size_t begin, size_t end, float *dweight,
                         float *scratch) {
    for (size_t t = begin; t < end; ++t) {
        const T *y = at(a.y, t), *z = at(a.z, t), *dout = at(a.dout, t);
        Vec squares{}, along{};
        for_lanes(a.width, [&](size_t c, size_t count) {
            const Vec gate = load(z + c, count), open = sigmoid_lanes(gate);
            const Vec v = load(y + c, count) * gate * open;
            squares += v * v;
            along += v * load(dout + c, count) * load(a.weight + c, count);
            store(scratch + c, open, count);
        });
        const NormSlope slope = norm_slope(squares, along, a.width, a.eps);
        const Vec scale = fill(slope.scale), shift = fill(slope.shift);
        for_lanes(a.width, [&](size_t c, size_t count) {
            const Vec gate = load(z + c, count), open = load(scratch + c, count);
            const Vec in = load(y + c, count), v = in * gate * open;
            const Vec scaled = load(dout + c, count) * scale;
            const Vec dv = scaled * load(a.weight + c, count) - shift * v;
            store(dweight + c, load(dweight + c, count) + scaled * v, count);
            store(at(a.dy, t) + c, dv * gate * open, count);
            store(at(a.dz, t) + c, dv * in * silu_slope(gate, open), count);
        });
    }
}

template <class T>
void swiglu_forward(const Swiglu<T> &a, size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
        const T *gate = at(a.gate_up, t), *up = gate + a.width;
        for_lanes(a.width, [&](size_t c, size_t count) {
            const Vec v = silu_lanes(load(gate + c, count)) * load(up + c, count);
            store(at(a.out, t) + c, v, count);
        });
    }
}

template <class T>
void swiglu_backward(const Swiglu<T> &a, size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
        const T *gate = at(a.gate_up, t), *up = gate + a.width, *dout = at(a.dout, t);
        T *dgate = at(a.dgate_up, t), *dup = dgate + a.width;
        for_lanes(a.width, [&](size_t c, size_t count) {
            const Vec x = load(gate + c, count), s = sigmoid_lanes(x), d = load(dout + c, count);
            store(dgate + c, d * load(up + c, count) * silu_slope(x, s), count);
            store(dup + c, d * x * s, count);
        });
    }
}

}  // namespace
}  // namespace adaptive_search
