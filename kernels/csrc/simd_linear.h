// The linear layers: rows of activations times packed panels of weights.
#pragma once

#include "simd_matrix.h"

namespace adaptive_search {
namespace {

void linear_f32(const float *a, ptrdiff_t lda, size_t m, const float *panels, size_t panel_size,
                size_t k, size_t n, float *out, ptrdiff_t ldo, bool accumulate) {
    for (size_t j = 0; j < n; j += kPanel, panels += panel_size) {
        const size_t columns = smaller(n - j, kPanel);
        for_row_blocks(m, [&](size_t i, auto rows) {
            constexpr int R = decltype(rows)::value;
            Tile<R> tile{};
            multiply(tile, row(a, lda, i), lda, 1, panels, kPanel, k);
            for (int r = 0; r < R; ++r) {
                float *target = row(out, ldo, i + static_cast<size_t>(r)) + j;
                if (columns == kPanel) {
                    put_pair(target, tile.v[r][0], tile.v[r][1], kPanel, accumulate);
                } else {
                    put_pair(target, tile.v[r][0], tile.v[r][1], columns, accumulate);
                }
            }
        });
    }
}

}  // namespace
}  // namespace adaptive_search
