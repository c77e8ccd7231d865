#include <immintrin.h>

#include <cstring>

#include "codes.h"

namespace adaptive_search {
namespace {

// As assembly, because GCC 12 moves the accumulators of the intrinsic to memory and back.
inline void add_dots(__m512i& sums, __m512i codes, const std::int8_t* query) {
    std::int32_t four;
    std::memcpy(&four, query, sizeof four);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(codes), "v"(_mm512_set1_epi32(four)));
}

inline __m512i byte_sums(const std::uint8_t* block, std::int64_t lines, const std::int8_t* query,
                         const std::uint8_t* far) {
    __m512i even = _mm512_setzero_si512();
    __m512i odd = _mm512_setzero_si512();
    std::int64_t l = 0;
    for (; l + 2 <= lines; l += 2) {
        __builtin_prefetch(far + l * kLineBytes, 0, kNear);
        __builtin_prefetch(far + (l + 1) * kLineBytes, 0, kNear);
        add_dots(even, _mm512_loadu_si512(block + l * kLineBytes), query + l * kRowBytes);
        add_dots(odd, _mm512_loadu_si512(block + (l + 1) * kLineBytes),
                 query + (l + 1) * kRowBytes);
    }
    if (l < lines) {
        add_dots(even, _mm512_loadu_si512(block + l * kLineBytes), query + l * kRowBytes);
    }
    return _mm512_add_epi32(even, odd);
}

// High halves stay where they are, and count 16 times as much until the end.
inline __m512i nibble_sums(const std::uint8_t* block, std::int64_t lines, const std::int8_t* query,
                           const std::uint8_t* far) {
    const __m512i low_half = _mm512_set1_epi8(0x0f);
    __m512i low = _mm512_setzero_si512();
    __m512i high = _mm512_setzero_si512();
    for (std::int64_t l = 0; l < lines; ++l) {
        __builtin_prefetch(far + l * kLineBytes, 0, kNear);
        const __m512i both = _mm512_loadu_si512(block + l * kLineBytes);
        const std::int8_t* q = query + 2 * l * kRowBytes;
        add_dots(low, _mm512_and_si512(both, low_half), q);
        add_dots(high, _mm512_andnot_si512(low_half, both), q + kRowBytes);
    }
    return _mm512_add_epi32(low, _mm512_srai_epi32(high, 4));
}

template <auto kSums>
std::int64_t scan(const std::uint8_t* blocks, std::int64_t count, std::int64_t lines,
                  const std::int8_t* query, std::int32_t least, const std::uint8_t* ahead,
                  std::int32_t* scores, std::int32_t* places) {
    const __m512i bound = _mm512_set1_epi32(least);
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    std::int64_t found = 0;
    for (std::int64_t b = 0; b < count; ++b) {
        const std::int64_t at = b * lines * kLineBytes;
        const __m512i sums = kSums(blocks + at, lines, query, ahead + at);
        const __mmask16 taken = _mm512_cmpge_epi32_mask(sums, bound);
        if (taken == 0) continue;
        const __m512i first = _mm512_set1_epi32(static_cast<std::int32_t>(b * kBlockRows));
        // Compressed in a register and stored whole: a compressing store is slow on some CPUs.
        // The buffers have room for all rows of the blocks, so the surplus stays inside them.
        const __m512i kept = _mm512_maskz_compress_epi32(taken, sums);
        const __m512i places_kept =
            _mm512_maskz_compress_epi32(taken, _mm512_add_epi32(first, lanes));
        _mm512_storeu_si512(scores + found, kept);
        _mm512_storeu_si512(places + found, places_kept);
        found += __builtin_popcount(taken);
    }
    return found;
}

}  // namespace

std::int64_t scan_bytes_avx512vnni(const std::uint8_t* blocks, std::int64_t count,
                                   std::int64_t lines, const std::int8_t* query,
                                   std::int32_t least, const std::uint8_t* ahead,
                                   std::int32_t* scores, std::int32_t* places) {
    return scan<byte_sums>(blocks, count, lines, query, least, ahead, scores, places);
}

std::int64_t scan_nibbles_avx512vnni(const std::uint8_t* blocks, std::int64_t count,
                                     std::int64_t lines, const std::int8_t* query,
                                     std::int32_t least, const std::uint8_t* ahead,
                                     std::int32_t* scores, std::int32_t* places) {
    return scan<nibble_sums>(blocks, count, lines, query, least, ahead, scores, places);
}

}  // namespace adaptive_search
