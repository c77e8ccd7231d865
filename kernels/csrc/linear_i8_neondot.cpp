// The linear layers in int8 on ARM with the dot product instructions.
#define ADAPTIVE_SEARCH_LANES 4
#define ADAPTIVE_SEARCH_TILE_ROWS 12
#include <arm_neon.h>

#include "simd_math.h"

namespace adaptive_search {
namespace {

constexpr std::int32_t kOffset = 0;

ADAPTIVE_SEARCH_INLINE void add_dots(Sums &totals, Sums weights, Sums codes) {
    totals = (Sums)vdotq_s32((int32x4_t)totals, (int8x16_t)weights, (int8x16_t)codes);
}


ADAPTIVE_SEARCH_INLINE void store_codes(std::int8_t *p, Word lanes) {
    const uint16x4_t halves = vmovn_u32((uint32x4_t)lanes);
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(halves, halves));
    __builtin_memcpy(p, &bytes, 4);
}

}  // namespace
}  // namespace adaptive_search

#include "simd_linear_i8.h"

namespace adaptive_search {

const Products &int8_neon_dotprod() { return kInt8; }

}  // namespace adaptive_search
