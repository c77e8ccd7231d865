// The instruction level this process runs at: found once, or forced by the user.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace adaptive_search {

enum class Level { reference, avx2, avx512, neon };

// A forced level that this machine or this build lacks; BackendUnavailable in Python.
struct LevelUnavailable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

const char *level_name(Level level);

// Levels compiled in and supported by this CPU and operating system, slowest first.
std::vector<Level> supported_levels();

// The fastest supported level, unless ADAPTIVE_SEARCH_LEVEL names another.
// Read at every call, so that a bad value is reported each time it matters.
Level active_level();

// What some CPUs of a level have beyond it.
bool has_avx512_vnni();
bool has_avx512_bf16();
bool has_neon_dotprod();

}  // namespace adaptive_search
