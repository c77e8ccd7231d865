#include <arm_neon.h>

#include "codes.h"

namespace adaptive_search {

std::int64_t scan_codes_neon(const std::uint8_t* blocks, std::int64_t count,
                             std::int64_t groups, const std::int8_t* query,
                             std::int32_t least, const std::uint8_t* ahead,
                             std::int32_t* scores, std::int32_t* places) {
    std::int64_t found = 0;
    for (std::int64_t b = 0; b < count; ++b) {
        const std::uint8_t* block = blocks + b * groups * kGroupBytes;
        std::int32_t sums[kBlockRows];
        for (int part = 0; part < 4; ++part) {  // four rows at a time
            int32x4_t sum = vdupq_n_s32(0);
            for (std::int64_t g = 0; g < groups; ++g) {
                if (part == 0) __builtin_prefetch(ahead + (b * groups + g) * kGroupBytes, 0, kNear);
                const std::int8_t* q = query + g * kGroupDims;
                const std::int16_t four[4] = {q[0], q[1], q[2], q[3]};
                const int16x4_t weights = vld1_s16(four);
                const uint8x16_t codes = vld1q_u8(block + g * kGroupBytes + part * 16);
                const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(codes)));
                const int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(codes)));
                const int32x4_t row01 = vpaddq_s32(vmull_s16(vget_low_s16(low), weights),
                                                   vmull_s16(vget_high_s16(low), weights));
                const int32x4_t row23 = vpaddq_s32(vmull_s16(vget_low_s16(high), weights),
                                                   vmull_s16(vget_high_s16(high), weights));
                sum = vaddq_s32(sum, vpaddq_s32(row01, row23));
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

}  // namespace adaptive_search
