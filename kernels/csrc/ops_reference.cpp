// The portable level: plain loops, obviously right, no instruction set assumed.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops.h"
#include "quantize.h"

namespace adaptive_search {
namespace {

using std::ptrdiff_t;
using std::size_t;

constexpr size_t kPanel = 8;

float silu(float x) { return x / (1.0f + std::exp(-x)); }

template <class T>
T *row(T *base, ptrdiff_t stride, size_t index) {
    return base + stride * static_cast<ptrdiff_t>(index);
}

void linear_f32_reference(const Operand &a, const void *packed, size_t panel_size, const float *,
                          size_t n, float *out, ptrdiff_t ldo, bool accumulate) {
    const auto *values = static_cast<const float *>(a.data);
    const auto *panels = static_cast<const float *>(packed);
    for (size_t i = 0; i < a.rows; ++i) {
        const float *source = row(values, a.stride, i);
        float *target = row(out, ldo, i);
        for (size_t j = 0; j < n; ++j) {
            const float *weight = panels + j / kPanel * panel_size + j % kPanel;
            float sum = 0.0f;
            for (size_t p = 0; p < a.inputs; ++p) sum += source[p] * weight[p * kPanel];
            target[j] = accumulate ? target[j] + sum : sum;
        }
    }
}

void linear_i8_reference(const Operand &a, const void *packed, size_t panel_size,
                         const float *scales, size_t n, float *out, ptrdiff_t ldo,
                         bool accumulate) {
    const auto *codes = static_cast<const std::int8_t *>(a.data);
    const auto *panels = static_cast<const std::int8_t *>(packed);
    for (size_t i = 0; i < a.rows; ++i) {
        const std::int8_t *source = row(codes, a.stride, i);
        float *target = row(out, ldo, i);
        for (size_t j = 0; j < n; ++j) {
            const std::int8_t *weight = panels + j / kPanel * panel_size + j % kPanel;
            std::int32_t sum = 0;
            for (size_t p = 0; p < a.inputs; ++p) sum += source[p] * weight[p * kPanel];
            const float value = static_cast<float>(sum) * (a.scales[i] * scales[j]);
            target[j] = accumulate ? target[j] + value : value;
        }
    }
}

Operand borrow_rows(const float *a, ptrdiff_t lda, size_t m, size_t k, float *) {
    return {m, k, a, lda, nullptr, nullptr};
}

Operand round_rows(const float *a, ptrdiff_t lda, size_t m, size_t k, float *space) {
    for (size_t i = 0; i < m; ++i) {
        for (size_t p = 0; p < k; ++p) space[i * k + p] = round_bf16(row(a, lda, i)[p]);
    }
    return {m, k, space, static_cast<ptrdiff_t>(k), nullptr, nullptr};
}

Operand quantize_rows(const float *a, ptrdiff_t lda, size_t m, size_t k, float *space) {
    auto *sums = reinterpret_cast<std::int32_t *>(space + m);
    auto *codes = reinterpret_cast<std::int8_t *>(space + 2 * m);
    for (size_t i = 0; i < m; ++i) {
        space[i] = quantize_row(row(a, lda, i), k, codes + i * k);
        sums[i] = std::accumulate(codes + i * k, codes + (i + 1) * k, std::int32_t{0});
    }
    return {m, k, codes, static_cast<ptrdiff_t>(k), space, sums};
}

void causal_conv1d_silu_f32_reference(const float *x, ptrdiff_t ldx, size_t rows, size_t channels,
                                      const float *weight, ptrdiff_t ldw, const float *bias,
                                      size_t d_conv, const float *history, ptrdiff_t ldh,
                                      float *out, ptrdiff_t ldo) {
    const size_t before = d_conv - 1;
    for (size_t t = rows; t-- > 0;) {  // backwards, so that out may be x
        for (size_t c = 0; c < channels; ++c) {
            float sum = bias[c];
            for (size_t j = 0; j < d_conv; ++j) {
                const size_t source = t + j;
                const float value = source < before ? row(history, ldh, source)[c]
                                                    : row(x, ldx, source - before)[c];
                sum += row(weight, ldw, j)[c] * value;
            }
            row(out, ldo, t)[c] = silu(sum);
        }
    }
}

void softplus_f32_reference(float *x, ptrdiff_t ldx, size_t rows, size_t n, const float *bias) {
    for (size_t t = 0; t < rows; ++t) {
        float *values = row(x, ldx, t);
        for (size_t c = 0; c < n; ++c) {
            const float v = values[c] + bias[c];
            values[c] = std::max(v, 0.0f) + std::log1p(std::exp(-std::abs(v)));
        }
    }
}

void ssd_scan_f32_reference(const Scan &s) {
    const size_t padded = round_up(s.headdim, kPanel);
    if (s.begins) std::fill_n(s.state, s.heads * s.d_state * padded, 0.0f);
    for (size_t t = 0; t < s.rows; ++t) {
        const float *B = row(s.B, s.ldbc, t), *C = row(s.C, s.ldbc, t);
        for (size_t h = 0; h < s.heads; ++h) {
            const float dt = row(s.dt, s.lddt, t)[h];
            const float decay = std::exp(dt * s.A[h]);
            for (size_t p = 0; p < s.headdim; ++p) {
                const float x = row(s.x, s.ldx, t)[h * s.headdim + p];
                float *state = s.state + h * s.d_state * padded + p;
                float y = s.D[h] * x;
                for (size_t n = 0; n < s.d_state; ++n) {
                    float &cell = state[n * padded];
                    cell = decay * cell + dt * x * B[n];
                    y += cell * C[n];
                }
                row(s.y, s.ldy, t)[h * s.headdim + p] = y;
            }
        }
    }
}

void rms_norm_f32_reference(const float *x, ptrdiff_t ldx, size_t rows, size_t n,
                            const float *weight, float eps, float *out, ptrdiff_t ldo) {
    for (size_t t = 0; t < rows; ++t) {
        const float *source = row(x, ldx, t);
        float squares = 0.0f;
        for (size_t c = 0; c < n; ++c) squares += source[c] * source[c];
        const float scale = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
        for (size_t c = 0; c < n; ++c) row(out, ldo, t)[c] = source[c] * scale * weight[c];
    }
}

void gated_rms_norm_f32_reference(float *y, ptrdiff_t ldy, const float *z, ptrdiff_t ldz,
                                  size_t rows, size_t n, const float *weight, float eps) {
    for (size_t t = 0; t < rows; ++t) {
        for (size_t c = 0; c < n; ++c) row(y, ldy, t)[c] *= silu(row(z, ldz, t)[c]);
    }
    rms_norm_f32_reference(y, ldy, rows, n, weight, eps, y, ldy);
}

void swiglu_f32_reference(float *gate, ptrdiff_t ldg, const float *up, ptrdiff_t ldu, size_t rows,
                          size_t n) {
    for (size_t t = 0; t < rows; ++t) {
        float *values = row(gate, ldg, t);
        for (size_t c = 0; c < n; ++c) values[c] = silu(values[c]) * row(up, ldu, t)[c];
    }
}

void softmax_pool_f32_reference(const float *h, ptrdiff_t ldh, size_t rows, float *logits,
                                ptrdiff_t ldl, const Pool &pool) {
    for (size_t b = 0; b < pool.bands; ++b) {
        float peak = pool.peak[b];
        for (size_t t = 0; t < rows; ++t) peak = std::max(peak, row(logits, ldl, t)[b]);
        const float shrink = std::exp(pool.peak[b] - peak);
        float *pooled = pool.pooled + b * pool.d_model;
        pool.peak[b] = peak;
        pool.total[b] *= shrink;
        for (size_t c = 0; c < pool.d_model; ++c) pooled[c] *= shrink;
        for (size_t t = 0; t < rows; ++t) {
            const float weight = std::exp(row(logits, ldl, t)[b] - peak);
            pool.total[b] += weight;
            for (size_t c = 0; c < pool.d_model; ++c) pooled[c] += weight * row(h, ldh, t)[c];
        }
    }
}

}  // namespace

const Ops &ops_reference() {
    static const Ops ops{kPanel,
                         causal_conv1d_silu_f32_reference,
                         softplus_f32_reference,
                         ssd_scan_f32_reference,
                         rms_norm_f32_reference,
                         gated_rms_norm_f32_reference,
                         swiglu_f32_reference,
                         softmax_pool_f32_reference};
    return ops;
}

const Products &float_products_reference(Precision precision) {
    static const Products fp32{Precision::fp32, Cell::f32,   kPanel, 1,
                               borrow_rows,     linear_f32_reference};
    static const Products bf16{Precision::bf16, Cell::f32,   kPanel, 1,
                               round_rows,      linear_f32_reference};
    return precision == Precision::fp32 ? fp32 : bf16;
}

const Products &int8_reference() {
    static const Products int8{Precision::int8, Cell::s8, kPanel, 1,
                               quantize_rows,   linear_i8_reference};
    return int8;
}

}  // namespace adaptive_search
