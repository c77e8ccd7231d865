// The linear layers in float32: rows of activations times packed panels of weights.
#pragma once

#include "ops.h"
#include "simd_matrix.h"
#include "simd_operand_floats.h"
#include "simd_spin.h"

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
    spin_tile<Vec>(rounds, [](Vec &total, Vec a, Vec b) { total += a * b; });
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
