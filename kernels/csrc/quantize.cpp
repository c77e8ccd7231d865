#include "quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace adaptive_search {

std::uint16_t narrow_bf16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float widen_bf16(std::uint16_t half) {
    const std::uint32_t bits = std::uint32_t{half} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

float quantize_row(const float *values, std::size_t n, std::int8_t *codes) {
    float peak = 0.0f;
    bool finite = true;
    for (std::size_t i = 0; i < n; ++i) {
        finite = finite && std::isfinite(values[i]);
        peak = std::max(peak, std::abs(values[i]));
    }
    const bool vanishes = peak < 1e-36f;  // 127 / peak would overflow
    const float inverse = vanishes || !finite ? 0.0f : 127.0f / peak;
    for (std::size_t i = 0; i < n; ++i) {
        codes[i] = finite ? static_cast<std::int8_t>(std::nearbyint(values[i] * inverse)) : 0;
    }
    if (!finite) return std::nanf("");
    return vanishes ? 0.0f : peak / 127.0f;
}

}  // namespace adaptive_search
