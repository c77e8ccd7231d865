// 256-bit registers, of which there are 16.
#define ADAPTIVE_SEARCH_LANES 8
#define ADAPTIVE_SEARCH_TILE_ROWS 6
#include "ops.h"
#include "simd_linear.h"
#include "simd_operand.h"
#include "simd_rows.h"
#include "simd_scan.h"

namespace adaptive_search {

const Ops &ops_avx2() {
    static constexpr Ops ops{kPanel,
                             causal_conv1d_silu_f32,
                             softplus_f32,
                             ssd_scan_f32,
                             rms_norm_f32,
                             gated_rms_norm_f32,
                             swiglu_f32,
                             softmax_pool_f32};
    return ops;
}

const Products &float_products_avx2(Precision precision) {
    static constexpr Products fp32{Precision::fp32, Cell::f32, kPanel, 1, borrow_rows, linear_f32};
    static constexpr Products bf16{Precision::bf16, Cell::f32, kPanel, 1, round_rows, linear_f32};
    return precision == Precision::fp32 ? fp32 : bf16;
}

}  // namespace adaptive_search
