// The walk over a row, for the levels of bands.h. Each of them has its own copy.
#pragma once

#include <cmath>
#include <cstring>

#include "bands.h"
#include "float16.h"

namespace adaptive_search {
namespace {

constexpr std::int64_t kLanes = 8;  // sums that run side by side, so that compilers vectorise them

// Bits of the nearest float16, ties to even. Without branches, so that loops of it are vectorised.
inline std::uint16_t narrow(float value) {
    constexpr std::uint32_t kInfinity = 0x7c00, kOverflow = (127u + 16u) << 23;
    constexpr std::uint32_t kLeastNormal = 113u << 23, kMagic = 126u << 23;
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t sign = bits & 0x80000000u;
    bits ^= sign;
    const std::uint32_t rounded = (bits + ((bits >> 13) & 1u) + 0xfffu - (112u << 23)) >> 13;
    // Adding 0.5 lets the float unit round what has no normal float16.
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    std::uint32_t small;
    std::memcpy(&small, &magnitude, sizeof small);
    std::uint32_t half = bits < kLeastNormal ? small - kMagic : rounded;
    half = bits >= kOverflow ? kInfinity : half;
    return static_cast<std::uint16_t>(half | sign >> 16);
}

// Sum of the squares of count numbers, each of which `at` gives as a double.
template <class At>
double sum_squares(std::int64_t count, const At& at) {
    double lanes[kLanes] = {};
    std::int64_t j = 0;
    for (; j + kLanes <= count; j += kLanes) {
        for (std::int64_t i = 0; i < kLanes; ++i) {
            const double value = at(j + i);
            lanes[i] += value * value;
        }
    }
    for (; j < count; ++j) lanes[j % kLanes] += at(j) * at(j);
    double sum = 0;
    for (const double lane : lanes) sum += lane;
    return sum;
}

inline void split(const float* row, std::int64_t width, std::int64_t number, bool unit,
                  const std::vector<BandRows>& bands, double* squares) {
    double factor = 1;
    if (unit) {
        const double length =
            std::sqrt(sum_squares(width, [&](std::int64_t j) { return double{row[j]}; }));
        factor = length > 0 ? 1 / length : 1;
    }
    for (const BandRows& part : bands) {
        std::uint16_t* out = part.data + number * part.width;
        for (std::int64_t j = 0; j < part.width; ++j) {
            out[j] = narrow(static_cast<float>(row[j] * factor));
        }
        *squares++ = sum_squares(part.width, [&](std::int64_t j) { return double{widen(out[j])}; });
        row += part.width;
    }
}

}  // namespace
}  // namespace adaptive_search
