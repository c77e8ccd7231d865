// The linear layers in float32: rows of activations times packed panels of weights.
#pragma once

#include "ops.h"
#include "simd_matrix.h"

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

}  // namespace
}  // namespace adaptive_search
