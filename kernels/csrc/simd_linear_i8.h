// The linear layers in int8, around an instruction set's own product of bytes.
//
// Included only by files that have defined
//   add_dots(Sums &totals, Sums weights, Sums codes): each lane of totals gains the four
//       products of the bytes in that lane;
//   kOffset: what is added to weights so that they suit the instruction;
//   store_codes(int8_t *, Word): stores the low byte of each lane.
#pragma once

#include "simd_matrix.h"
#include "simd_quantize.h"
#include "simd_spin.h"

namespace adaptive_search {
namespace {

template <int R>
struct Totals {
    Sums v[R][2];
};

ADAPTIVE_SEARCH_INLINE Sums load_sums(const void *p) {
    Sums v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

constexpr size_t kPage = 4096;

// A run of memory to ask for while something else is computed, so much at each step.
struct Ahead {
    const std::int8_t *next;
    size_t step;
};

template <int R>
ADAPTIVE_SEARCH_INLINE void multiply_codes(Totals<R> &totals, const std::int8_t *codes,
                                           ptrdiff_t stride, const std::int8_t *weights,
                                           size_t groups, Ahead ahead) {
    // Every third row has a pointer, which the compiler must not know to be one stride's multiple:
    // a dozen of them would not fit the registers.
    constexpr int kPointers = (R + 2) / 3;
    const std::int8_t *third[kPointers];
#pragma GCC unroll 4
    for (int i = 0; i < kPointers; ++i) {
        third[i] = codes + 3 * i * stride;
        __asm__("" : "+r"(third[i]));
    }
    for (size_t g = 0; g < groups; ++g, weights += 4 * kPanel, ahead.next += ahead.step) {
        __builtin_prefetch(ahead.next);
        __builtin_prefetch(ahead.next + 64);
        const Sums w0 = load_sums(weights), w1 = load_sums(weights + 4 * kLanes);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            std::int32_t four;
            __builtin_memcpy(&four, third[r / 3] + r % 3 * stride, sizeof four);
            const Sums spread = four - Sums{};
            add_dots(totals.v[r][0], w0, spread);
            add_dots(totals.v[r][1], w1, spread);
        }
#pragma GCC unroll 4
        for (int i = 0; i < kPointers; ++i) third[i] += 4;
    }
}

// The values that the totals of one row of activations stand for.
ADAPTIVE_SEARCH_INLINE Vec values_of(Sums totals, std::int32_t sum, float scale, Vec scales) {
    totals -= kOffset * sum - Sums{};
    return __builtin_convertvector(totals, Vec) * (fill(scale) * scales);
}

// Rows [first, first + R) of a by one panel, to R rows of out. A function of its own, because GCC
// keeps the totals in registers only while there is nothing else to keep.
template <int R, bool accumulate>
__attribute__((noinline)) void multiply_block(const Operand &a, size_t first,
                                              const std::int8_t *panel, const float *scales,
                                              float *out, ptrdiff_t ldo, Ahead ahead) {
    const auto *codes = static_cast<const std::int8_t *>(a.data);
    Totals<R> totals{};
    multiply_codes(totals, row(codes, a.stride, first), a.stride, panel, (a.inputs + 3) / 4,
                   ahead);
    const Vec scales0 = load(scales), scales1 = load(scales + kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r, out += ldo) {
        const size_t t = first + static_cast<size_t>(r);
        put_pair(out, values_of(totals.v[r][0], a.sums[t], a.scales[t], scales0),
                 values_of(totals.v[r][1], a.sums[t], a.scales[t], scales1), kPanel, accumulate);
    }
}

// The same to the first columns of out alone.
template <int R, bool accumulate>
void multiply_columns(const Operand &a, size_t first, const std::int8_t *panel,
                      const float *scales, float *out, ptrdiff_t ldo, size_t columns,
                      Ahead ahead) {
    float whole[R * kPanel];
    multiply_block<R, false>(a, first, panel, scales, whole, kPanel, ahead);
    for (size_t r = 0; r < R; ++r, out += ldo) {
        for (size_t c = 0; c < columns; ++c) {
            out[c] = accumulate ? out[c] + whole[r * kPanel + c] : whole[r * kPanel + c];
        }
    }
}

// Memory is asked for the next panel while this one is in use, or where that is not for long, for
// what is a page ahead, since the processor's own foresight ends at pages.
template <bool accumulate>
void multiply_rows(const Operand &a, const std::int8_t *panels, size_t panel_size,
                   const float *scales, size_t n, float *out, ptrdiff_t ldo) {
    if (a.rows == 0) return;
    const size_t blocks = (a.rows + kTileRows - 1) / kTileRows;
    const size_t used = (a.inputs + 3) / 4 * 4 * kPanel, step = 4 * kPanel / blocks;
    const size_t distance = blocks == 1 && used == panel_size ? kPage : panel_size;
    for (size_t j = 0; j < n; j += kPanel, panels += panel_size, scales += kPanel) {
        Ahead ahead{panels + distance, step};
        for_row_blocks(a.rows, [&](size_t i, auto rows) {
            constexpr int R = decltype(rows)::value;
            float *target = row(out, ldo, i) + j;
            if (n - j >= kPanel) {
                multiply_block<R, accumulate>(a, i, panels, scales, target, ldo, ahead);
            } else {
                multiply_columns<R, accumulate>(a, i, panels, scales, target, ldo, n - j, ahead);
            }
            ahead.next += used / blocks;
        });
    }
}

void linear_i8(const Operand &a, const void *packed, size_t panel_size, const float *scales,
               size_t n, float *out, ptrdiff_t ldo, bool accumulate) {
    const auto *panels = static_cast<const std::int8_t *>(packed);
    if (accumulate) {
        multiply_rows<true>(a, panels, panel_size, scales, n, out, ldo);
    } else {
        multiply_rows<false>(a, panels, panel_size, scales, n, out, ldo);
    }
}

size_t spin_codes(size_t rounds) {
    spin_tile<Sums>(rounds, [](Sums &total, Sums a, Sums b) { add_dots(total, a, b); });
    return kTileRows * kPanel * 4;
}

constexpr Products kInt8{Precision::int8, kOffset == 0 ? Cell::s8 : Cell::u8, kPanel, 4,
                         quantize_rows<PlainRows>, quantize_rows<NormRows>,
                         quantize_rows<GatedRows>, quantize_rows<SwigluRows>, linear_i8, spin_codes};

}  // namespace
}  // namespace adaptive_search
