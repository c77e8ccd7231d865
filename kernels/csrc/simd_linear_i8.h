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

namespace adaptive_search {
namespace {

// Weights are asked of memory a page ahead, because the processor's own foresight ends at pages.
// One short text, which reads every weight once, takes a quarter less time.
constexpr size_t kPage = 4096;

template <int R>
struct Totals {
    Sums v[R][2];
};

ADAPTIVE_SEARCH_INLINE Sums load_sums(const void *p) {
    Sums v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <int R>
ADAPTIVE_SEARCH_INLINE void multiply_codes(Totals<R> &totals, const std::int8_t *codes,
                                           ptrdiff_t stride, const std::int8_t *weights,
                                           size_t groups) {
    for (size_t g = 0; g < groups; ++g, codes += 4, weights += 4 * kPanel) {
        for (size_t line = 0; line < 4 * kPanel; line += 64) {
            __builtin_prefetch(weights + kPage + line);
        }
        const Sums w0 = load_sums(weights), w1 = load_sums(weights + 4 * kLanes);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            std::int32_t four;
            __builtin_memcpy(&four, codes + r * stride, sizeof four);
            const Sums spread = four - Sums{};
            add_dots(totals.v[r][0], w0, spread);
            add_dots(totals.v[r][1], w1, spread);
        }
    }
}

// The values that the totals of one row of activations stand for.
ADAPTIVE_SEARCH_INLINE Vec values_of(Sums totals, std::int32_t sum, float scale, Vec scales) {
    totals -= kOffset * sum - Sums{};
    return __builtin_convertvector(totals, Vec) * (fill(scale) * scales);
}

void linear_i8(const Operand &a, const void *packed, size_t panel_size, const float *scales,
               size_t n, float *out, ptrdiff_t ldo, bool accumulate) {
    const auto *codes = static_cast<const std::int8_t *>(a.data);
    const auto *panels = static_cast<const std::int8_t *>(packed);
    const size_t groups = (a.inputs + 3) / 4;
    for (size_t j = 0; j < n; j += kPanel, panels += panel_size) {
        const size_t columns = smaller(n - j, kPanel);
        const Vec scales0 = load(scales + j), scales1 = load(scales + j + kLanes);
        for_row_blocks(a.rows, [&](size_t i, auto rows) {
            constexpr int R = decltype(rows)::value;
            Totals<R> totals{};
            multiply_codes(totals, row(codes, a.stride, i), a.stride, panels, groups);
            Tile<R> tile;
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r) {
                const size_t t = i + static_cast<size_t>(r);
                tile.v[r][0] = values_of(totals.v[r][0], a.sums[t], a.scales[t], scales0);
                tile.v[r][1] = values_of(totals.v[r][1], a.sums[t], a.scales[t], scales1);
            }
            put_tile(row(out, ldo, i) + j, ldo, tile, columns, accumulate);
        });
    }
}

constexpr Products kInt8{Precision::int8, kOffset == 0 ? Cell::s8 : Cell::u8, kPanel, 4,
                         quantize_rows, linear_i8};

}  // namespace
}  // namespace adaptive_search
