// The linear layers in int8 on ARM with the dot product instructions.
#define ADAPTIVE_SEARCH_LANES 4
#define ADAPTIVE_SEARCH_TILE_ROWS 12
#include "neon_codes.h"

namespace adaptive_search {
namespace {

constexpr std::int32_t kOffset = 0;

ADAPTIVE_SEARCH_INLINE void add_dots(Sums &totals, Sums weights, Sums codes) {
    totals = (Sums)vdotq_s32((int32x4_t)totals, (int8x16_t)weights, (int8x16_t)codes);
}

}  // namespace
}  // namespace adaptive_search

#include "simd_linear_i8.h"

namespace adaptive_search {

const Products &int8_neon_dotprod() { return kInt8; }

}  // namespace adaptive_search
