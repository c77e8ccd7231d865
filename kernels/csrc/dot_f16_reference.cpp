#include <cstring>

#include "dot_f16.h"

namespace adaptive_search {
namespace {

float half_to_float(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t exponent = (half >> 10) & 0x1fu;
    const std::uint32_t fraction = half & 0x3ffu;
    if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in float32
        const float value = static_cast<float>(fraction) * 5.9604644775390625e-8f;
        return sign ? -value : value;
    }
    // 112 moves the exponent from bias 15 to bias 127; 31 (infinity, NaN) becomes 255.
    const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
    const std::uint32_t bits = sign | (wide << 23) | (fraction << 13);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace

float dot_f16_reference(const Band* bands, int nbands, std::int64_t row, const float* query,
                        float* lanes) {
    for (int b = 0; b < nbands; ++b) {
        const std::uint16_t* x = bands[b].data + row * bands[b].width;
        for (std::int64_t j = 0; j < bands[b].width; ++j) {
            lanes[j % kLanes] += half_to_float(x[j]) * query[j];
        }
        query += bands[b].width;
    }
    float folded[kLanes];
    std::memcpy(folded, lanes, sizeof folded);
    for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) folded[i] += folded[i + half];
    }
    return folded[0];
}

}  // namespace adaptive_search
