// The search kernels of the level that is in force.
#include "codes.h"
#include "dot_f16.h"
#include "simd_level.h"

namespace adaptive_search {

DotF16 active_dot_f16() {
    switch (active_level()) {
#if defined(__x86_64__)
        case Level::avx512: return dot_f16_avx512;
        case Level::avx2: return dot_f16_avx2;
#elif defined(__aarch64__)
        case Level::neon: return dot_f16_neon;
#endif
        default: return dot_f16_reference;
    }
}

ScanCodes active_scan_codes() {
    switch (active_level()) {
#if defined(__x86_64__)
        case Level::avx512: return has_avx512_vnni() ? scan_codes_avx512vnni : scan_codes_avx2;
        case Level::avx2: return scan_codes_avx2;
#elif defined(__aarch64__)
        case Level::neon: return scan_codes_neon;
#endif
        default: return scan_codes_reference;
    }
}

}  // namespace adaptive_search
