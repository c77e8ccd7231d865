// The linear layers in bf16 on AVX-512 with BF16: two products a lane and instruction.
#define ADAPTIVE_SEARCH_LANES 16
#define ADAPTIVE_SEARCH_TILE_ROWS 12
#include <immintrin.h>

#include "ops.h"
#include "simd_operand_floats.h"
#include "simd_pairs.h"
#include "simd_spin.h"

namespace adaptive_search {
namespace {

template <class Kind>
Operand narrow_rows(const Kind &rows, size_t m, size_t k, float *space) {
    const size_t stride = round_up(k, 32);
    auto *halves = reinterpret_cast<std::uint16_t *>(space);
    for (size_t t = 0; t < m; ++t) {
        const Vec scale = fill(survey(rows, t, k).scale);
        for_lanes(k, [&](size_t c, size_t count) {
            const Word upper = bf16_lanes(value(rows, t, c, count) * scale) >> 16;
            const __m256i narrow = _mm512_cvtepi32_epi16((__m512i)upper);
            __builtin_memcpy(halves + t * stride + c, &narrow, sizeof narrow);
        });
    }
    return {m, k, halves, static_cast<ptrdiff_t>(stride), nullptr, nullptr};
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

size_t spin_pairs(size_t rounds) {
    spin_tile<Vec>(rounds, [](Vec &total, Vec a, Vec b) { add_pairs(total, a, b); });
    return kTileRows * kPanel * 2;
}

}  // namespace

const Products &bf16_avx512bf16() {
    static constexpr Products bf16{Precision::bf16, Cell::bf16, kPanel, 2,
                                   narrow_rows<PlainRows>, narrow_rows<NormRows>,
                                   narrow_rows<GatedRows>, narrow_rows<SwigluRows>, linear_bf16, spin_pairs};
    return bf16;
}

}  // namespace adaptive_search
