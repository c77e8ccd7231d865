// The operations of the encoder, one table of functions for each instruction level.
//
// Arrays are float32 unless they say otherwise. Matrices are row-major with a row stride in
// elements (ld...), which may be negative where a text is read right to left. A row's
// result never depends on the other rows of the call, nor on how many there are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace adaptive_search {

// Positions that the state-space scan handles as one matrix product.
constexpr std::size_t kChunk = 32;
constexpr std::size_t kMaxConv = 16;
// The widest panel of packed weights at any level.
constexpr std::size_t kPanelMost = 32;

// One run of the Mamba-2 recurrence over consecutive positions of one text.
struct Scan {
    std::size_t rows, heads, headdim, d_state;
    const float *x;  // (rows, heads * headdim)
    std::ptrdiff_t ldx;
    const float *dt;  // (rows, heads), after softplus
    std::ptrdiff_t lddt;
    const float *B, *C;  // (rows, d_state) each
    std::ptrdiff_t ldbc;
    const float *A, *D;  // (heads,); A < 0
    float *state;        // (heads, d_state, headdim rounded up to Ops::panel), in and out
    float *y;            // (rows, heads * headdim); may be x
    std::ptrdiff_t ldy;
    float *scratch;  // scan_scratch() floats
    bool begins = false;  // the text begins here: whatever state holds, it counts as zero
    bool ends = false;    // the text ends here: state may be left as it is
};

using ScanFunction = void (*)(const Scan &scan);

// The softmax over a text's tokens as far as it has been read.
struct Pool {
    std::size_t bands, d_model;
    float *peak;    // (bands,), starts at -infinity
    float *total;   // (bands,), starts at 0
    float *pooled;  // (bands, d_model), starts at 0; the sum before division by total
};

// What the linear layers compute with.
//   fp32: float32.
//   bf16: weights and activations rounded to bfloat16, sums in float32.
//   int8: whole numbers up to 127 times a scale, one for each row of weights and one for each
//         row of activations, found as it comes; the sums are exact.
enum class Precision { fp32, bf16, int8 };

// Activations that a product reads, by what they are computed from.
struct PlainRows {
    const float *a;
    std::ptrdiff_t lda;
};

// x / sqrt(mean(x^2) + eps) * weight.
struct NormRows {
    const float *x;
    std::ptrdiff_t ldx;
    const float *weight;
    float eps;
};

// The same of y * silu(z). y is overwritten.
struct GatedRows {
    float *y;
    std::ptrdiff_t ldy;
    const float *z;
    std::ptrdiff_t ldz;
    const float *weight;
    float eps;
};

// silu(gate) * up. gate is overwritten.
struct SwigluRows {
    float *gate;
    std::ptrdiff_t ldg;
    const float *up;
    std::ptrdiff_t ldu;
};

// Rows of activations in the form that the products of one precision read.
struct Operand {
    std::size_t rows, inputs;
    const void *data;            // float, bfloat16 or int8; int8 rows go on with zeros
    std::ptrdiff_t stride;       // elements from row to row
    const float *scales;         // int8: what a code stands for, by row
    const std::int32_t *sums;    // int8: the sum of the codes, by row
};

// How a packed weight is stored: int8 codes as they are, or with 128 added.
enum class Cell { f32, bf16, s8, u8 };

// The linear layers in one precision. Weights are packed in panels of some outputs; a panel
// holds its inputs `group` at a time, (inputs / group, panel, group) cells.
struct Products {
    Precision precision;
    Cell cell;
    std::size_t panel, group;

    // (m, k) activations as an operand, in operand_space(m, k) floats of memory; plain ones may
    // stay where they are.
    Operand (*plain)(const PlainRows &rows, std::size_t m, std::size_t k, float *space);
    Operand (*norm)(const NormRows &rows, std::size_t m, std::size_t k, float *space);
    Operand (*gated)(const GatedRows &rows, std::size_t m, std::size_t k, float *space);
    Operand (*swiglu)(const SwigluRows &rows, std::size_t m, std::size_t k, float *space);

    // out (m, n) = or += a (m, k) times the first k columns of the first n packed rows. Panels
    // are panel_size cells apart. scales: int8 only, one for each packed row.
    void (*multiply)(const Operand &a, const void *panels, std::size_t panel_size,
                     const float *scales, std::size_t n, float *out, std::ptrdiff_t ldo,
                     bool accumulate);

    // The arithmetic of multiply() alone, in registers, which it cannot outrun: `rounds` times as
    // many multiply-adds as are returned.
    std::size_t (*spin)(std::size_t rounds);
};

struct Ops {
    // Vectors of the scan's state are padded to this many values.
    std::size_t panel;

    // out[t, c] = silu(bias[c] + sum_j weight[j, c] * x[t - d_conv + 1 + j, c]); rows
    // before the first come from history (d_conv - 1, channels). out may be x.
    void (*causal_conv1d_silu_f32)(const float *x, std::ptrdiff_t ldx, std::size_t rows,
                                   std::size_t channels, const float *weight,
                                   std::ptrdiff_t ldw, const float *bias, std::size_t d_conv,
                                   const float *history, std::ptrdiff_t ldh, float *out,
                                   std::ptrdiff_t ldo);

    // x = log(1 + exp(x + bias)), in place.
    void (*softplus_f32)(float *x, std::ptrdiff_t ldx, std::size_t rows, std::size_t n,
                         const float *bias);

    ScanFunction ssd_scan_f32;

    // Adds rows of h (rows, d_model) under logits (rows, bands), which it overwrites.
    void (*softmax_pool_f32)(const float *h, std::ptrdiff_t ldh, std::size_t rows, float *logits,
                             std::ptrdiff_t ldl, const Pool &pool);
};

// ssd_scan_f32 with bf16 products: x, dt, B and C are rounded in them, sums and state are not.
void ssd_scan_avx512bf16(const Scan &scan);

const Ops &ops_reference();
const Ops &ops_avx2();
const Ops &ops_avx512();
const Ops &ops_neon();

// In fp32, or in bf16 as float32 products of rounded values.
const Products &float_products_reference(Precision precision);
const Products &float_products_avx2(Precision precision);
const Products &float_products_avx512(Precision precision);
const Products &float_products_neon(Precision precision);
const Products &bf16_avx512bf16();
const Products &int8_reference();
const Products &int8_avx2();
const Products &int8_avx512vnni();
const Products &int8_neon();
const Products &int8_neon_dotprod();

constexpr std::size_t round_up(std::size_t n, std::size_t unit) {
    return (n + unit - 1) / unit * unit;
}

// Floats of memory for an operand of any precision: 64 bytes or more apart, row by row.
constexpr std::size_t operand_space(std::size_t m, std::size_t k) {
    return 2 * round_up(m, 16) + m * round_up(k, 16);
}

// Floats that any scan needs beside its state: B and C in other forms, C B^T, its decayed form of
// one head, the inputs of one head under two weights, and the state in bf16.
constexpr std::size_t scan_scratch(std::size_t d_state, std::size_t padded_headdim) {
    const std::size_t states = round_up(d_state, 32);
    return kChunk * (2 * states + 2 * kChunk + 2 * padded_headdim) + states * padded_headdim / 2;
}

}  // namespace adaptive_search
