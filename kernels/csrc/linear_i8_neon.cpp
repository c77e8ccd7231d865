// The linear layers in int8 on any 64-bit ARM.
#define ADAPTIVE_SEARCH_LANES 4
#define ADAPTIVE_SEARCH_TILE_ROWS 6
#include "neon_codes.h"

namespace adaptive_search {
namespace {

constexpr std::int32_t kOffset = 0;

ADAPTIVE_SEARCH_INLINE void add_dots(Sums &totals, Sums weights, Sums codes) {
    const int8x16_t w = (int8x16_t)weights, c = (int8x16_t)codes;
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(c)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(w, c));
    totals += (Sums)vpaddq_s32(low, high);
}

}  // namespace
}  // namespace adaptive_search

#include "simd_linear_i8.h"

namespace adaptive_search {

const Products &int8_neon() { return kInt8; }

}  // namespace adaptive_search
