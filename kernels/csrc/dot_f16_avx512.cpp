#include <immintrin.h>

#include "dot_f16.h"

namespace adaptive_search {
namespace {

inline __m512 add_product(__m512 lanes, __m256i half, __m512 query) {
    return _mm512_add_ps(lanes, _mm512_mul_ps(_mm512_cvtph_ps(half), query));
}

inline float fold(__m512 low, __m512 high) {
    const __m512 sixteen = _mm512_add_ps(low, high);
    const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(sixteen), 1));
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(sixteen), upper);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace

float dot_f16_avx512(const Band* bands, int nbands, std::int64_t row, const float* query,
                     float* lanes) {
    __m512 low = _mm512_loadu_ps(lanes);
    __m512 high = _mm512_loadu_ps(lanes + 16);
    for (int b = 0; b < nbands; ++b) {
        const std::int64_t width = bands[b].width;
        const std::uint16_t* x = bands[b].data + row * width;
        std::int64_t j = 0;
        for (; j + 32 <= width; j += 32) {
            const __m256i* half = reinterpret_cast<const __m256i*>(x + j);
            low = add_product(low, _mm256_loadu_si256(half), _mm512_loadu_ps(query + j));
            high = add_product(high, _mm256_loadu_si256(half + 1), _mm512_loadu_ps(query + j + 16));
        }
        if (j < width) {
            const std::uint32_t rest = (1u << (width - j)) - 1u;
            const __m512i half = _mm512_maskz_loadu_epi16(rest, x + j);
            const __mmask16 rest_low = static_cast<__mmask16>(rest);
            const __mmask16 rest_high = static_cast<__mmask16>(rest >> 16);
            low = add_product(low, _mm512_castsi512_si256(half),
                              _mm512_maskz_loadu_ps(rest_low, query + j));
            high = add_product(high, _mm512_extracti64x4_epi64(half, 1),
                               _mm512_maskz_loadu_ps(rest_high, query + j + 16));
        }
        query += width;
    }
    _mm512_storeu_ps(lanes, low);
    _mm512_storeu_ps(lanes + 16, high);
    return fold(low, high);
}

}  // namespace adaptive_search
