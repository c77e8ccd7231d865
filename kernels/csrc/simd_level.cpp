#include "simd_level.h"

#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define ADAPTIVE_SEARCH_X86 1
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace adaptive_search {
namespace {

constexpr const char *kVariable = "ADAPTIVE_SEARCH_LEVEL";

#ifdef ADAPTIVE_SEARCH_X86

struct Registers {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
    Registers r;
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
    return r;
}

bool has(unsigned word, unsigned bits) { return (word & bits) == bits; }

// Register state that the operating system saves (XCR0); 0 without XSAVE.
std::uint64_t saved_state() {
    if (!has(cpuid(1).ecx, bit_OSXSAVE)) return 0;
    std::uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (std::uint64_t{high} << 32) | low;
}

// Each test names exactly the flags that CMakeLists.txt compiles the level with.
bool has_avx2() {
    constexpr std::uint64_t kYmm = 0x6;
    return (saved_state() & kYmm) == kYmm && has(cpuid(1).ecx, bit_AVX | bit_FMA | bit_F16C) &&
           has(cpuid(7).ebx, bit_AVX2);
}

bool has_avx512() {
    constexpr std::uint64_t kZmm = 0xe6;
    return has_avx2() && (saved_state() & kZmm) == kZmm &&
           has(cpuid(7).ebx, bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL);
}

#endif

}  // namespace

const char *level_name(Level level) {
    switch (level) {
        case Level::avx2: return "avx2";
        case Level::avx512: return "avx512";
        case Level::neon: return "neon";
        case Level::reference: break;
    }
    return "reference";
}

#ifdef ADAPTIVE_SEARCH_X86

bool has_avx512_vnni() {
    static const bool found = has_avx512() && has(cpuid(7).ecx, bit_AVX512VNNI);
    return found;
}

bool has_avx512_bf16() {
    static const bool found = has_avx512() && has(cpuid(7, 1).eax, bit_AVX512BF16);
    return found;
}

#elif defined(__aarch64__)

bool has_neon_dotprod() {
#if defined(__APPLE__)
    return true;  // every 64-bit Mac has it
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return false;
#endif
}

#endif

std::vector<Level> supported_levels() {
    std::vector<Level> levels{Level::reference};
#if defined(ADAPTIVE_SEARCH_X86)
    if (has_avx2()) levels.push_back(Level::avx2);
    if (has_avx512()) levels.push_back(Level::avx512);
#elif defined(__aarch64__)
    levels.push_back(Level::neon);  // part of the base instruction set
#endif
    return levels;
}

Level active_level() {
    static const std::vector<Level> levels = supported_levels();
    const char *forced = std::getenv(kVariable);
    if (forced == nullptr || *forced == '\0') return levels.back();
    std::string names;
    for (Level level : levels) {
        if (level_name(level) == std::string(forced)) return level;
        names += names.empty() ? "" : ", ";
        names += level_name(level);
    }
    throw LevelUnavailable(std::string(kVariable) + "=" + forced +
                           " is not a level of this machine; choose one of " + names);
}

}  // namespace adaptive_search
