#include <arm_neon.h>

#include "dot_f16_bands.h"

namespace adaptive_search {
namespace {

// lanes[r] holds lanes 4r to 4r + 3.
struct Sums {
    float32x4_t lanes[8];

    void add(const std::uint16_t* x, const float* q) {
        for (int r = 0; r < 8; ++r) {
            const float16x4_t half = vreinterpret_f16_u16(vld1_u16(x + 4 * r));
            lanes[r] = vaddq_f32(lanes[r], vmulq_f32(vcvt_f32_f16(half), vld1q_f32(q + 4 * r)));
        }
    }
};

inline float fold(const float32x4_t* lanes) {
    float32x4_t sum[4];
    for (int r = 0; r < 4; ++r) sum[r] = vaddq_f32(lanes[r], lanes[r + 4]);
    const float32x4_t low = vaddq_f32(sum[0], sum[2]);
    const float32x4_t high = vaddq_f32(sum[1], sum[3]);
    const float32x4_t four = vaddq_f32(low, high);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

}  // namespace

float dot_f16_neon(const Band* bands, int nbands, std::int64_t row, const float* query,
                   float* lanes) {
    Sums sums;
    for (int r = 0; r < 8; ++r) sums.lanes[r] = vld1q_f32(lanes + 4 * r);
    add_bands(sums, bands, nbands, row, query);
    for (int r = 0; r < 8; ++r) vst1q_f32(lanes + 4 * r, sums.lanes[r]);
    return fold(sums.lanes);
}

}  // namespace adaptive_search
