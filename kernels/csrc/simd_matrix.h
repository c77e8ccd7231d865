// The register-blocked matrix product that the linear layers and the scan are made of.
#pragma once

#include "simd_math.h"

namespace adaptive_search {
namespace {

// Two vectors wide; as tall as the register file allows: 12 x 2 accumulators of 32
// registers, 6 x 2 of 16, leaving room for a row of b and a broadcast.
constexpr size_t kPanel = 2 * kLanes;
constexpr int kTileRows = ADAPTIVE_SEARCH_TILE_ROWS;

template <int R>
struct Tile {
    Vec v[R][2];
};

// tile += a (R, k) b (k, kPanel). Every element adds its k products in order, so it does
// not depend on R.
template <int R>
ADAPTIVE_SEARCH_INLINE void multiply(Tile<R> &tile, const float *a, ptrdiff_t row_stride,
                                     ptrdiff_t k_stride, const float *b, ptrdiff_t ldb,
                                     size_t k) {
    for (size_t i = 0; i < k; ++i) {
        const Vec b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const Vec value = fill(a[r * row_stride]);
            tile.v[r][0] += value * b0;
            tile.v[r][1] += value * b1;
        }
        a += k_stride;
        b += ldb;
    }
}

template <int R>
struct Rows {
    static constexpr int value = R;
};

// Calls f with the number of rows as a compile-time constant.
template <int R, class F>
ADAPTIVE_SEARCH_INLINE void with_rows(size_t rows, F f) {
    if constexpr (R > 1) {
        if (rows < R) return with_rows<R - 1>(rows, f);
    }
    f(Rows<R>{});
}

// Calls f(start, Rows) for each block of kTileRows out of m, and for what is left.
template <class F>
ADAPTIVE_SEARCH_INLINE void for_row_blocks(size_t m, F f) {
    size_t i = 0;
    for (; i + kTileRows <= m; i += kTileRows) f(i, Rows<kTileRows>{});
    if (i < m) with_rows<kTileRows - 1>(m - i, [&](auto rows) { f(i, rows); });
}

ADAPTIVE_SEARCH_INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

// The first `columns` of the two vectors to out, added to what is there if asked.
ADAPTIVE_SEARCH_INLINE void put_pair(float *out, Vec v0, Vec v1, size_t columns,
                                     bool accumulate) {
    const size_t first = smaller(columns, kLanes), second = columns - first;
    if (accumulate) {
        v0 += load(out, first);
        v1 += load(out + first, second);
    }
    store(out, v0, first);
    store(out + first, v1, second);
}

// The first `columns` of a tile to R rows of out; a whole panel needs no partial stores.
template <int R>
ADAPTIVE_SEARCH_INLINE void put_tile(float *out, ptrdiff_t ldo, const Tile<R> &tile,
                                     size_t columns, bool accumulate) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r, out += ldo) {
        if (columns == kPanel) {
            put_pair(out, tile.v[r][0], tile.v[r][1], kPanel, accumulate);
        } else {
            put_pair(out, tile.v[r][0], tile.v[r][1], columns, accumulate);
        }
    }
}

}  // namespace
}  // namespace adaptive_search
