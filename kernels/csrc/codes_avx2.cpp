#include <immintrin.h>

#include <cstring>

#include "codes.h"

namespace adaptive_search {
namespace {

// The scores of a block: rows 0 to 7, and rows 8 to 15.
struct Sums {
    __m256i low = _mm256_setzero_si256();
    __m256i high = _mm256_setzero_si256();
};

// The 32-bit lanes of a register hold four codes of a row. Codes 0 and 2 of each lane, and codes 1
// and 3, widen to 16 bits by a mask and a shift; products of 16 bits cannot overflow, where those
// of bytes would saturate.
inline __m256i add_bytes(__m256i sums, const std::uint8_t* codes, __m256i even, __m256i odd) {
    const __m256i four = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i low = _mm256_and_si256(four, _mm256_set1_epi16(0xff));
    const __m256i high = _mm256_srli_epi16(four, 8);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(low, even));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(high, odd));
}

inline __m256i spread(std::int8_t low, std::int8_t high) {
    const std::uint32_t pair = static_cast<std::uint16_t>(static_cast<std::int16_t>(low)) |
                               static_cast<std::uint32_t>(static_cast<std::uint16_t>(high)) << 16;
    return _mm256_set1_epi32(static_cast<std::int32_t>(pair));
}

inline void add_byte_line(Sums& sums, const std::uint8_t* line, const std::int8_t* q) {
    const __m256i even = spread(q[0], q[2]), odd = spread(q[1], q[3]);
    sums.low = add_bytes(sums.low, line, even, odd);
    sums.high = add_bytes(sums.high, line + 32, even, odd);
}

// Four products of 15 and 127 fit in 16 bits.
inline __m256i add_nibbles(__m256i sums, const std::uint8_t* codes, __m256i first, __m256i next) {
    const __m256i eight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i low = _mm256_and_si256(eight, mask);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(eight, 4), mask);
    const __m256i pairs =
        _mm256_add_epi16(_mm256_maddubs_epi16(low, first), _mm256_maddubs_epi16(high, next));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

inline __m256i repeat(const std::int8_t* q) {
    std::int32_t four;
    std::memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

inline void add_nibble_line(Sums& sums, const std::uint8_t* line, const std::int8_t* q) {
    const __m256i first = repeat(q), next = repeat(q + kRowBytes);
    sums.low = add_nibbles(sums.low, line, first, next);
    sums.high = add_nibbles(sums.high, line + 32, first, next);
}

inline std::int64_t take(__m256i sums, std::int32_t first, __m256i below, std::int32_t* scores,
                         std::int32_t* places) {
    const __m256i above = _mm256_cmpgt_epi32(sums, below);
    unsigned taken = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(above)));
    if (taken == 0) return 0;
    alignas(32) std::int32_t values[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(values), sums);
    std::int64_t found = 0;
    for (; taken != 0; taken &= taken - 1) {
        const int lane = __builtin_ctz(taken);
        scores[found] = values[lane];
        places[found++] = first + lane;
    }
    return found;
}

template <std::int64_t kBits, auto kAddLine>
std::int64_t scan(const std::uint8_t* blocks, std::int64_t count, std::int64_t lines,
                  const std::int8_t* query, std::int32_t least, const std::uint8_t* ahead,
                  std::int32_t* scores, std::int32_t* places) {
    // No score is as low as the least int32, so "above least - 1" may start one higher.
    const __m256i below = _mm256_set1_epi32(least == INT32_MIN ? least : least - 1);
    std::int64_t found = 0;
    for (std::int64_t b = 0; b < count; ++b) {
        Sums sums;
        for (std::int64_t l = 0; l < lines; ++l) {
            const std::int64_t at = (b * lines + l) * kLineBytes;
            __builtin_prefetch(ahead + at, 0, kNear);
            kAddLine(sums, blocks + at, query + l * line_dims(kBits));
        }
        const std::int32_t first = static_cast<std::int32_t>(b * kBlockRows);
        found += take(sums.low, first, below, scores + found, places + found);
        found += take(sums.high, first + 8, below, scores + found, places + found);
    }
    return found;
}

}  // namespace

std::int64_t scan_bytes_avx2(const std::uint8_t* blocks, std::int64_t count, std::int64_t lines,
                             const std::int8_t* query, std::int32_t least,
                             const std::uint8_t* ahead, std::int32_t* scores,
                             std::int32_t* places) {
    return scan<8, add_byte_line>(blocks, count, lines, query, least, ahead, scores, places);
}

std::int64_t scan_nibbles_avx2(const std::uint8_t* blocks, std::int64_t count, std::int64_t lines,
                               const std::int8_t* query, std::int32_t least,
                               const std::uint8_t* ahead, std::int32_t* scores,
                               std::int32_t* places) {
    return scan<4, add_nibble_line>(blocks, count, lines, query, least, ahead, scores, places);
}

}  // namespace adaptive_search
