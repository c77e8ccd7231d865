// 128-bit registers, of which there are 32.
#define ADAPTIVE_SEARCH_LANES 4
#define ADAPTIVE_SEARCH_TILE_ROWS 12
#include "ops.h"
#include "simd_linear.h"
#include "simd_rows.h"
#include "simd_scan.h"

namespace adaptive_search {

const Ops &ops_neon() {
    static constexpr Ops ops{kPanel, causal_conv1d_silu_f32, softplus_f32, ssd_scan_f32,
                             softmax_pool_f32};
    return ops;
}

const Products &float_products_neon(Precision precision) {
    return precision == Precision::fp32 ? kFp32 : kBf16;
}

}  // namespace adaptive_search
