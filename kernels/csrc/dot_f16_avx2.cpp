#include <immintrin.h>

#include "dot_f16_bands.h"

namespace adaptive_search {
namespace {

// lanes[r] holds lanes 8r to 8r + 7.
struct Sums {
    __m256 lanes[4];

    void add(const std::uint16_t* x, const float* q) {
        for (int r = 0; r < 4; ++r) {
            const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 8 * r));
            const __m256 product = _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_loadu_ps(q + 8 * r));
            lanes[r] = _mm256_add_ps(lanes[r], product);
        }
    }
};

inline float fold(const __m256* lanes) {
    const __m256 low = _mm256_add_ps(lanes[0], lanes[2]);
    const __m256 high = _mm256_add_ps(lanes[1], lanes[3]);
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace

float dot_f16_avx2(const Band* bands, int nbands, std::int64_t row, const float* query,
                   float* lanes) {
    Sums sums;
    for (int r = 0; r < 4; ++r) sums.lanes[r] = _mm256_loadu_ps(lanes + 8 * r);
    add_bands(sums, bands, nbands, row, query);
    for (int r = 0; r < 4; ++r) _mm256_storeu_ps(lanes + 8 * r, sums.lanes[r]);
    return fold(sums.lanes);
}

}  // namespace adaptive_search
