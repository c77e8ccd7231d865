// Float16 numbers, as bits. Each file that includes this has its own copy, with its level's
// instructions.
#pragma once

#include <cstdint>
#include <cstring>

namespace adaptive_search {

// In float32. What is not finite becomes some number.
static inline float widen(std::uint16_t half) {
    const std::uint32_t bits = (half & 0x7fffu) << 13 | (half & 0x8000u) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value * 0x1p112f;  // moves the exponent's bias from 15 to 127
}

}  // namespace adaptive_search
