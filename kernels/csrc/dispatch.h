// The operations of the level that is in force.
#pragma once

#include <string>

#include "ops.h"
#include "simd_level.h"

namespace adaptive_search {

// Both throw LevelUnavailable for a forced level that this machine lacks.
const Ops &active_ops();
const Products &active_products(Precision precision);

// Of "fp32", "bf16" or "int8"; throws std::invalid_argument for another name.
Precision precision_named(const std::string &name);

}  // namespace adaptive_search
