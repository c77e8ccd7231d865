// The linear layers in int8 on AVX-512 with VNNI.
#define ADAPTIVE_SEARCH_LANES 16
#define ADAPTIVE_SEARCH_TILE_ROWS 12
#include <immintrin.h>

#include "simd_math.h"

namespace adaptive_search {
namespace {

constexpr std::int32_t kOffset = 128;  // the instruction takes unsigned weights, signed codes

// As assembly, because GCC 12 moves the accumulators of the intrinsic to memory and back.
ADAPTIVE_SEARCH_INLINE void add_dots(Sums &totals, Sums weights, Sums codes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(totals) : "v"(weights), "v"(codes));
}

ADAPTIVE_SEARCH_INLINE void store_codes(std::int8_t *p, Word lanes) {
    const __m128i bytes = _mm512_cvtepi32_epi8((__m512i)lanes);
    __builtin_memcpy(p, &bytes, sizeof bytes);
}

}  // namespace
}  // namespace adaptive_search

#include "simd_linear_i8.h"

namespace adaptive_search {

const Products &int8_avx512vnni() { return kInt8; }

}  // namespace adaptive_search
