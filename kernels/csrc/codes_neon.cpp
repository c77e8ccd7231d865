#include <arm_neon.h>

#include "codes.h"

namespace adaptive_search {
namespace {

// Adds four bytes of each of four rows to the scores of these.
inline int32x4_t add_bytes(int32x4_t sums, uint8x16_t codes, const std::int8_t* q) {
    const std::int16_t four[4] = {q[0], q[1], q[2], q[3]};
    const int16x4_t weights = vld1_s16(four);
    const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(codes)));
    const int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(codes)));
    const int32x4_t row01 = vpaddq_s32(vmull_s16(vget_low_s16(low), weights),
                                       vmull_s16(vget_high_s16(low), weights));
    const int32x4_t row23 = vpaddq_s32(vmull_s16(vget_low_s16(high), weights),
                                       vmull_s16(vget_high_s16(high), weights));
    return vaddq_s32(sums, vpaddq_s32(row01, row23));
}

inline int8x8_t repeat(const std::int8_t* q) {
    const std::int8_t twice[8] = {q[0], q[1], q[2], q[3], q[0], q[1], q[2], q[3]};
    return vld1_s8(twice);
}

// The same for bytes of two codes. Two products of 15 and 127 fit in 16 bits.
inline int32x4_t add_nibbles(int32x4_t sums, uint8x16_t codes, const std::int8_t* q) {
    const int8x8_t first = repeat(q), next = repeat(q + kRowBytes);
    const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8(15)));
    const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(codes, 4));
    const int16x8_t row01 =
        vmlal_s8(vmull_s8(vget_low_s8(low), first), vget_low_s8(high), next);
    const int16x8_t row23 =
        vmlal_s8(vmull_s8(vget_high_s8(low), first), vget_high_s8(high), next);
    return vaddq_s32(sums, vpaddq_s32(vpaddlq_s16(row01), vpaddlq_s16(row23)));
}

template <std::int64_t kBits, auto kAdd>
std::int64_t scan(const std::uint8_t* blocks, std::int64_t count, std::int64_t lines,
                  const std::int8_t* query, std::int32_t least, const std::uint8_t* ahead,
                  std::int32_t* scores, std::int32_t* places) {
    std::int64_t found = 0;
    for (std::int64_t b = 0; b < count; ++b) {
        const std::int64_t block = b * lines * kLineBytes;
        std::int32_t sums[kBlockRows];
        for (int part = 0; part < 4; ++part) {  // four rows at a time
            int32x4_t sum = vdupq_n_s32(0);
            for (std::int64_t l = 0; l < lines; ++l) {
                const std::int64_t at = block + l * kLineBytes;
                if (part == 0) __builtin_prefetch(ahead + at, 0, kNear);
                sum = kAdd(sum, vld1q_u8(blocks + at + part * 16), query + l * line_dims(kBits));
            }
            vst1q_s32(sums + part * 4, sum);
        }
        for (std::int64_t row = 0; row < kBlockRows; ++row) {
            if (sums[row] < least) continue;
            scores[found] = sums[row];
            places[found++] = static_cast<std::int32_t>(b * kBlockRows + row);
        }
    }
    return found;
}

}  // namespace

std::int64_t scan_bytes_neon(const std::uint8_t* blocks, std::int64_t count, std::int64_t lines,
                             const std::int8_t* query, std::int32_t least,
                             const std::uint8_t* ahead, std::int32_t* scores,
                             std::int32_t* places) {
    return scan<8, add_bytes>(blocks, count, lines, query, least, ahead, scores, places);
}

std::int64_t scan_nibbles_neon(const std::uint8_t* blocks, std::int64_t count, std::int64_t lines,
                               const std::int8_t* query, std::int32_t least,
                               const std::uint8_t* ahead, std::int32_t* scores,
                               std::int32_t* places) {
    return scan<4, add_nibbles>(blocks, count, lines, query, least, ahead, scores, places);
}

}  // namespace adaptive_search
