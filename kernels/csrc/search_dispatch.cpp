// The kernels of storage and search of the level that is in force.
#include "bands.h"
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

SplitRow active_split_row() {
    switch (active_level()) {
#if defined(__x86_64__)
        case Level::avx512: return split_row_avx512;
        case Level::avx2: return split_row_avx2;
#elif defined(__aarch64__)
        case Level::neon: return split_row_neon;
#endif
        default: return split_row_reference;
    }
}

ScanCodes active_scan_codes(std::int64_t bits) {
    const auto of_bits = [bits](ScanCodes bytes, ScanCodes nibbles) {
        return bits == 8 ? bytes : nibbles;
    };
    switch (active_level()) {
#if defined(__x86_64__)
        case Level::avx512:
            if (has_avx512_vnni()) return of_bits(scan_bytes_avx512vnni, scan_nibbles_avx512vnni);
            return of_bits(scan_bytes_avx2, scan_nibbles_avx2);
        case Level::avx2: return of_bits(scan_bytes_avx2, scan_nibbles_avx2);
#elif defined(__aarch64__)
        case Level::neon: return of_bits(scan_bytes_neon, scan_nibbles_neon);
#endif
        default: return of_bits(scan_bytes_reference, scan_nibbles_reference);
    }
}

}  // namespace adaptive_search
