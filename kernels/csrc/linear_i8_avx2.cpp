// The linear layers in int8 on AVX2, which multiplies only unsigned bytes by signed ones, into
// pairs of 16 bits.
#define ADAPTIVE_SEARCH_LANES 8
#define ADAPTIVE_SEARCH_TILE_ROWS 4
#include <immintrin.h>

#include "simd_math.h"

namespace adaptive_search {
namespace {

constexpr std::int32_t kOffset = 0;

// With the codes' signs moved to the weights, a pair is at most 2 * 127 * 127, which fits.
ADAPTIVE_SEARCH_INLINE void add_dots(Sums &totals, Sums weights, Sums codes) {
    const __m256i signed_weights = _mm256_sign_epi8((__m256i)weights, (__m256i)codes);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)codes), signed_weights);
    totals += (Sums)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

ADAPTIVE_SEARCH_INLINE void store_codes(std::int8_t *p, Word lanes) {
    const __m256i low_bytes = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                               -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1,
                                               -1, -1, -1, -1);
    const Sums bytes = (Sums)_mm256_shuffle_epi8((__m256i)lanes, low_bytes);
    const std::int32_t halves[2] = {bytes[0], bytes[4]};
    __builtin_memcpy(p, halves, sizeof halves);
}

}  // namespace
}  // namespace adaptive_search

#include "simd_linear_i8.h"

namespace adaptive_search {

const Products &int8_avx2() { return kInt8; }

}  // namespace adaptive_search
