// The linear layers in bf16 on AVX-512 with BF16: two products a lane and instruction.
#define ADAPTIVE_SEARCH_LANES 16
#define ADAPTIVE_SEARCH_TILE_ROWS 12
#include <immintrin.h>

#include "ops.h"
#include "simd_matrix.h"
#include "simd_operand.h"

namespace adaptive_search {
namespace {

inline Operand narrow_rows(const float *a, ptrdiff_t lda, size_t m, size_t k, float *space) {
    const size_t stride = round_up(k, 32);
    auto *halves = reinterpret_cast<std::uint16_t *>(space);
    for (size_t t = 0; t < m; ++t) {
        const float *values = row(a, lda, t);
        for_lanes(k, [&](size_t c, size_t count) {
            const Word upper = bf16_lanes(load(values + c, count)) >> 16;
            const __m256i narrow = _mm512_cvtepi32_epi16((__m512i)upper);
            __builtin_memcpy(halves + t * stride + c, &narrow, sizeof narrow);
        });
    }
    return {m, k, halves, static_cast<ptrdiff_t>(stride), nullptr, nullptr};
}

// As assembly for the same reason as in linear_i8_avx512.cpp.
ADAPTIVE_SEARCH_INLINE void add_pairs(Vec &totals, Vec weights, Vec halves) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(totals) : "v"(weights), "v"(halves));
}

ADAPTIVE_SEARCH_INLINE Vec load_pairs(const void *p) {
    Vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <int R>
ADAPTIVE_SEARCH_INLINE void multiply_pairs(Tile<R> &tile, const std::uint16_t *halves,
                                           ptrdiff_t stride, const std::uint16_t *weights,
                                           size_t groups) {
    for (size_t g = 0; g < groups; ++g, halves += 2, weights += 2 * kPanel) {
        const Vec w0 = load_pairs(weights), w1 = load_pairs(weights + 2 * kLanes);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            std::uint32_t pair;
            __builtin_memcpy(&pair, halves + r * stride, sizeof pair);
            const Vec spread = (Vec)(pair - Word{});
            add_pairs(tile.v[r][0], w0, spread);
            add_pairs(tile.v[r][1], w1, spread);
        }
    }
}

void linear_bf16(const Operand &a, const void *packed, size_t panel_size, const float *, size_t n,
                 float *out, ptrdiff_t ldo, bool accumulate) {
    const auto *halves = static_cast<const std::uint16_t *>(a.data);
    const auto *panels = static_cast<const std::uint16_t *>(packed);
    const size_t groups = (a.inputs + 1) / 2;
    for (size_t j = 0; j < n; j += kPanel, panels += panel_size) {
        const size_t columns = smaller(n - j, kPanel);
        for_row_blocks(a.rows, [&](size_t i, auto rows) {
            constexpr int R = decltype(rows)::value;
            Tile<R> tile{};
            multiply_pairs(tile, row(halves, a.stride, i), a.stride, panels, groups);
            put_tile(row(out, ldo, i) + j, ldo, tile, columns, accumulate);
        });
    }
}

}  // namespace

const Products &bf16_avx512bf16() {
    static constexpr Products bf16{Precision::bf16, Cell::bf16, kPanel, 2, narrow_rows, linear_bf16};
    return bf16;
}

}  // namespace adaptive_search
