// The operations of the level that is in force.
#pragma once

#include "ops.h"
#include "simd_level.h"

namespace adaptive_search {

// Throws LevelUnavailable for a forced level that this machine lacks.
const Ops &active_ops();

}  // namespace adaptive_search
