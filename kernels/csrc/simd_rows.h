// Operations that treat each row on its own: convolution, softplus, pooling.
#pragma once

#include "ops.h"
#include "simd_math.h"

namespace adaptive_search {
namespace {

void causal_conv1d_silu_f32(const float *x, ptrdiff_t ldx, size_t rows, size_t channels,
                            const float *weight, ptrdiff_t ldw, const float *bias, size_t d_conv,
                            const float *history, ptrdiff_t ldh, float *out, ptrdiff_t ldo) {
    const size_t before = d_conv - 1;
    const float *source[kMaxConv];
    for (size_t t = rows; t-- > 0;) {  // backwards, so that out may be x
        for (size_t j = 0; j < d_conv; ++j) {
            source[j] = t + j < before ? row(history, ldh, t + j) : row(x, ldx, t + j - before);
        }
        for_lanes(channels, [&](size_t c, size_t count) {
            Vec sum = load(bias + c, count);
            for (size_t j = 0; j < d_conv; ++j) {
                sum += load(row(weight, ldw, j) + c, count) * load(source[j] + c, count);
            }
            store(row(out, ldo, t) + c, silu_lanes(sum), count);
        });
    }
}

void softplus_f32(float *x, ptrdiff_t ldx, size_t rows, size_t n, const float *bias) {
    for (size_t t = 0; t < rows; ++t) {
        float *values = row(x, ldx, t);
        for_lanes(n, [&](size_t c, size_t count) {
            store(values + c, softplus_lanes(load(values + c, count) + load(bias + c, count)),
                  count);
        });
    }
}

// Raises each band's peak to these rows' and shrinks what was summed under the old one.
void raise_peaks(size_t rows, const float *logits, ptrdiff_t ldl, const Pool &pool) {
    for_lanes(pool.bands, [&](size_t b, size_t count) {
        const Vec old_peak = load(pool.peak + b, count);
        Vec peak = old_peak;
        for (size_t t = 0; t < rows; ++t) peak = maximum(load(row(logits, ldl, t) + b, count), peak);
        const Vec shrink = exp_lanes(old_peak - peak);
        store(pool.peak + b, peak, count);
        store(pool.total + b, load(pool.total + b, count) * shrink, count);
        for (size_t i = 0; i < count; ++i) {
            float *pooled = pool.pooled + (b + i) * pool.d_model;
            for_lanes(pool.d_model, [&](size_t c, size_t width) {
                store(pooled + c, load(pooled + c, width) * fill(shrink[i]), width);
            });
        }
    });
}

void softmax_pool_f32(const float *h, ptrdiff_t ldh, size_t rows, float *logits, ptrdiff_t ldl,
                      const Pool &pool) {
    raise_peaks(rows, logits, ldl, pool);
    for (size_t t = 0; t < rows; ++t) {
        float *weights = row(logits, ldl, t);
        for_lanes(pool.bands, [&](size_t b, size_t count) {
            const Vec w = exp_lanes(load(weights + b, count) - load(pool.peak + b, count));
            store(pool.total + b, load(pool.total + b, count) + w, count);
            store(weights + b, w, count);
        });
        for (size_t b = 0; b < pool.bands; ++b) {
            float *pooled = pool.pooled + b * pool.d_model;
            for_lanes(pool.d_model, [&](size_t c, size_t count) {
                const Vec value = load(row(h, ldh, t) + c, count);
                store(pooled + c, load(pooled + c, count) + fill(weights[b]) * value, count);
            });
        }
    }
}

}  // namespace
}  // namespace adaptive_search
