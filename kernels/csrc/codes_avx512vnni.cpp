#include <immintrin.h>

#include <cstring>

#include "codes.h"

namespace adaptive_search {
namespace {

// As assembly, because GCC 12 moves the accumulators of the intrinsic to memory and back.
inline void add_dots(__m512i& sums, const std::uint8_t* codes, const std::int8_t* query) {
    std::int32_t four;
    std::memcpy(&four, query, sizeof four);
    const __m512i unsigned_codes = _mm512_loadu_si512(codes);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_codes), "v"(_mm512_set1_epi32(four)));
}

}  // namespace

std::int64_t scan_codes_avx512vnni(const std::uint8_t* blocks, std::int64_t count,
                                   std::int64_t groups, const std::int8_t* query,
                                   std::int32_t least, const std::uint8_t* ahead,
                                   std::int32_t* scores, std::int32_t* places) {
    const __m512i bound = _mm512_set1_epi32(least);
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    std::int64_t found = 0;
    for (std::int64_t b = 0; b < count; ++b) {
        const std::uint8_t* block = blocks + b * groups * kGroupBytes;
        const std::uint8_t* far = ahead + b * groups * kGroupBytes;
        __m512i even = _mm512_setzero_si512();
        __m512i odd = _mm512_setzero_si512();
        std::int64_t g = 0;
        for (; g + 2 <= groups; g += 2) {
            __builtin_prefetch(far + g * kGroupBytes, 0, kNear);
            __builtin_prefetch(far + (g + 1) * kGroupBytes, 0, kNear);
            add_dots(even, block + g * kGroupBytes, query + g * kGroupDims);
            add_dots(odd, block + (g + 1) * kGroupBytes, query + (g + 1) * kGroupDims);
        }
        if (g < groups) add_dots(even, block + g * kGroupBytes, query + g * kGroupDims);
        const __m512i sums = _mm512_add_epi32(even, odd);
        const __mmask16 taken = _mm512_cmpge_epi32_mask(sums, bound);
        if (taken == 0) continue;
        const __m512i first = _mm512_set1_epi32(static_cast<std::int32_t>(b * kBlockRows));
        // Compressed in a register and stored whole: a compressing store is slow on some CPUs.
        // The buffers have room for all rows of the blocks, so the surplus stays inside them.
        const __m512i kept = _mm512_maskz_compress_epi32(taken, sums);
        const __m512i at = _mm512_maskz_compress_epi32(taken, _mm512_add_epi32(first, lanes));
        _mm512_storeu_si512(scores + found, kept);
        _mm512_storeu_si512(places + found, at);
        found += __builtin_popcount(taken);
    }
    return found;
}

}  // namespace adaptive_search
