// The portable level: plain loops, obviously right, no instruction set assumed.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

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

// Row t of each kind of activations, as floats.
void compute_row(const PlainRows &rows, size_t t, size_t n, float *out) {
    std::copy_n(row(rows.a, rows.lda, t), n, out);
}

void normalize(const float *x, size_t n, const float *weight, float eps, float *out) {
    float squares = 0.0f;
    for (size_t c = 0; c < n; ++c) squares += x[c] * x[c];
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
    for (size_t c = 0; c < n; ++c) out[c] = x[c] * scale * weight[c];
}

void compute_row(const NormRows &rows, size_t t, size_t n, float *out) {
    normalize(row(rows.x, rows.ldx, t), n, rows.weight, rows.eps, out);
}

void compute_row(const GatedRows &rows, size_t t, size_t n, float *out) {
    const float *y = row(rows.y, rows.ldy, t), *z = row(rows.z, rows.ldz, t);
    for (size_t c = 0; c < n; ++c) out[c] = y[c] * silu(z[c]);
    normalize(out, n, rows.weight, rows.eps, out);
}

void compute_row(const SwigluRows &rows, size_t t, size_t n, float *out) {
    const float *gate = row(rows.gate, rows.ldg, t), *up = row(rows.up, rows.ldu, t);
    for (size_t c = 0; c < n; ++c) out[c] = silu(gate[c]) * up[c];
}

Operand borrow_rows(const PlainRows &rows, size_t m, size_t k, float *) {
    return {m, k, rows.a, rows.lda, nullptr, nullptr};
}

template <class Kind, Precision precision>
Operand store_rows(const Kind &rows, size_t m, size_t k, float *space) {
    for (size_t i = 0; i < m; ++i) {
        float *out = space + i * k;
        compute_row(rows, i, k, out);
        if (precision == Precision::fp32) continue;
        for (size_t p = 0; p < k; ++p) out[p] = round_bf16(out[p]);
    }
    return {m, k, space, static_cast<ptrdiff_t>(k), nullptr, nullptr};
}

template <class Kind>
Operand quantize_rows(const Kind &rows, size_t m, size_t k, float *space) {
    auto *sums = reinterpret_cast<std::int32_t *>(space + m);
    auto *codes = reinterpret_cast<std::int8_t *>(space + 2 * m);
    std::vector<float> values(k);
    for (size_t i = 0; i < m; ++i) {
        compute_row(rows, i, k, values.data());
        space[i] = quantize_row(values.data(), k, codes + i * k);
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

template <class Number>
size_t spin(size_t rounds) {
    Number factor{}, sum{};
    for (size_t i = 0; i < rounds; ++i) {
        __asm__ volatile("" : "+m"(factor));  // unknown, so that nothing is left out
        sum += factor * factor;
    }
    __asm__ volatile("" : : "m"(sum));
    return 1;
}

}  // namespace

const Ops &ops_reference() {
    static const Ops ops{kPanel, causal_conv1d_silu_f32_reference, softplus_f32_reference,
                         ssd_scan_f32_reference, softmax_pool_f32_reference};
    return ops;
}

const Products &float_products_reference(Precision precision) {
    constexpr Precision f = Precision::fp32, b = Precision::bf16;
    static const Products fp32{f, Cell::f32, kPanel, 1, borrow_rows, store_rows<NormRows, f>,
                               store_rows<GatedRows, f>, store_rows<SwigluRows, f>,
                               linear_f32_reference, spin<float>};
    static const Products bf16{b, Cell::f32, kPanel, 1, store_rows<PlainRows, b>,
                               store_rows<NormRows, b>, store_rows<GatedRows, b>,
                               store_rows<SwigluRows, b>, linear_f32_reference, spin<float>};
    return precision == f ? fp32 : bf16;
}

const Products &int8_reference() {
    static const Products int8{Precision::int8, Cell::s8, kPanel, 1, quantize_rows<PlainRows>,
                               quantize_rows<NormRows>, quantize_rows<GatedRows>,
                               quantize_rows<SwigluRows>, linear_i8_reference, spin<std::int32_t>};
    return int8;
}

}  // namespace adaptive_search
