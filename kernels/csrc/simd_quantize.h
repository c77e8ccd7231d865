// Rows of activations as int8 codes, for files that have defined store_codes().
#pragma once

#include "simd_operand.h"

namespace adaptive_search {
namespace {

// Codes of one row with a finite peak; returns their sum.
template <class Kind>
ADAPTIVE_SEARCH_INLINE std::int32_t encode_row(const Kind &rows, size_t t, size_t n, float inverse,
                                               std::int8_t *codes) {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
    const Vec magic = fill(12582912.0f);
    Word sum{};
    for_lanes(n, [&](size_t c, size_t count) {
        const Word shifted = (Word)(value(rows, t, c, count) * fill(inverse) + magic);
        sum += shifted - (Word)magic;
        store_codes(codes + c, shifted);
    });
    std::uint32_t total = 0;
    for (size_t i = 0; i < kLanes; ++i) total += sum[i];
    return static_cast<std::int32_t>(total);
}

// code = value / scale rounded, with scale = the row's largest magnitude / 127; what scales a
// whole row does not change its codes. A row that is not finite gets a scale that is not finite
// either, whatever its codes.
template <class Kind>
Operand quantize_rows(const Kind &rows, size_t m, size_t k, float *space) {
    const size_t stride = round_up(k, 64);
    float *scales = space;
    auto *sums = reinterpret_cast<std::int32_t *>(space + round_up(m, 16));
    auto *codes = reinterpret_cast<std::int8_t *>(space + 2 * round_up(m, 16));
    for (size_t t = 0; t < m; ++t) {
        const Survey found = survey(rows, t, k);
        const bool vanishes = found.peak < 1e-36f;  // 127 / peak would overflow
        const bool finite = found.peak <= 3.4028235e38f;
        scales[t] = vanishes ? 0.0f : found.peak / 127.0f * found.scale;
        const float inverse = vanishes ? 0.0f : 127.0f / found.peak;
        sums[t] = finite ? encode_row(rows, t, k, inverse, codes + t * stride) : 0;
    }
    return {m, k, codes, static_cast<ptrdiff_t>(stride), scales, sums};
}

}  // namespace
}  // namespace adaptive_search
