#include "dispatch.h"

#include <stdexcept>

namespace adaptive_search {

const Ops &active_ops() {
    switch (active_level()) {
#if defined(__x86_64__) || defined(__i386__)
        case Level::avx512: return ops_avx512();
        case Level::avx2: return ops_avx2();
#elif defined(__aarch64__)
        case Level::neon: return ops_neon();
#endif
        default: return ops_reference();
    }
}

const Products &active_products(Precision precision) {
    const bool int8 = precision == Precision::int8;
    switch (active_level()) {
#if defined(__x86_64__) || defined(__i386__)
        case Level::avx512:
            if (int8) return has_avx512_vnni() ? int8_avx512vnni() : int8_avx2();
            if (precision == Precision::bf16 && has_avx512_bf16()) return bf16_avx512bf16();
            return float_products_avx512(precision);
        case Level::avx2: return int8 ? int8_avx2() : float_products_avx2(precision);
#elif defined(__aarch64__)
        case Level::neon:
            if (int8) return has_neon_dotprod() ? int8_neon_dotprod() : int8_neon();
            return float_products_neon(precision);
#endif
        default: return int8 ? int8_reference() : float_products_reference(precision);
    }
}

ScanFunction active_scan([[maybe_unused]] Precision precision) {
#if defined(__x86_64__) || defined(__i386__)
    if (precision != Precision::fp32 && active_level() == Level::avx512 && has_avx512_bf16()) {
        return ssd_scan_avx512bf16;
    }
#endif
    return active_ops().ssd_scan_f32;
}

Precision precision_named(const std::string &name) {
    if (name == "fp32") return Precision::fp32;
    if (name == "bf16") return Precision::bf16;
    if (name == "int8") return Precision::int8;
    throw std::invalid_argument("precision " + name + " is not known; choose fp32, bf16 or int8");
}

}  // namespace adaptive_search
