// How the int8 kernels of ARM store codes.
#pragma once

#include <arm_neon.h>

#include "simd_math.h"

namespace adaptive_search {
namespace {

ADAPTIVE_SEARCH_INLINE void store_codes(std::int8_t *p, Word lanes) {
    const uint16x4_t halves = vmovn_u32((uint32x4_t)lanes);
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(halves, halves));
    __builtin_memcpy(p, &bytes, 4);
}

}  // namespace
}  // namespace adaptive_search
