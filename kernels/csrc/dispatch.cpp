#include "dispatch.h"

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

}  // namespace adaptive_search
