// The linear layers in float32: rows of activations times packed panels of weights.
#pragma once

#include "ops.h"
#include "simd_matrix.h"
#include "simd_operand_floats.h"

namespace adaptive_search {
namespace {

void linear_f32(const Operand &a, const void *packed, size_t panel_size, const float *, size_t n,
                float *out, ptrdiff_t ldo, bool accumulate) {
    const auto *values = static_cast<const float *>(a.data);
    const auto *panels = static_cast<const float *>(packed);
    for (size_t j = 0; j < n; j += kPanel, panels += panel_size) {
        const size_t columns = smaller(n - j, kPanel);
        for_row_blocks(a.rows, [&](size_t i, auto rows) {
            constexpr int R = decltype(rows)::value;
            Tile<R> tile{};
            multiply(tile, row(values, a.stride, i), a.stride, 1, panels, kPanel, a.inputs);
            put_tile(row(out, ldo, i) + j, ldo, tile, columns, accumulate);
        });
    }
}

size_t spin_floats(size_t rounds) {
    Vec start[kTileRows][2] = {}, factor{};
    __asm__ volatile("" : "+m"(start), "+m"(factor));  // unknown, so that nothing is left out
    Tile<kTileRows> tile;
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r) {
        tile.v[r][0] = start[r][0];
        tile.v[r][1] = start[r][1];
    }
    for (size_t i = 0; i < rounds; ++i) {
        __asm__ volatile("" : "+m"(factor));
#pragma GCC unroll 12
        for (int r = 0; r < kTileRows; ++r) {
            tile.v[r][0] += factor * factor;
            tile.v[r][1] += factor * factor;
        }
    }
    Vec all{};
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r) all += tile.v[r][0] + tile.v[r][1];
    __asm__ volatile("" : : "m"(all));
    return kTileRows * kPanel;
}

constexpr Products kFp32{Precision::fp32, Cell::f32, kPanel, 1, borrow_rows,
                         store_rows<NormRows, false>, store_rows<GatedRows, false>,
                         store_rows<SwigluRows, false>, linear_f32, spin_floats};
constexpr Products kBf16{Precision::bf16, Cell::f32, kPanel, 1, store_rows<PlainRows, true>,
                         store_rows<NormRows, true>, store_rows<GatedRows, true>,
                         store_rows<SwigluRows, true>, linear_f32, spin_floats};

}  // namespace
}  // namespace adaptive_search
