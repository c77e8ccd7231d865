// The operations of the level that is in force.
#pragma once

#include <string>

#include "ops.h"
#include "simd_level.h"

namespace adaptive_search {

// All throw LevelUnavailable for a forced level that this machine lacks.
const Ops &active_ops();
const Products &active_products(Precision precision);
// The scan beside products of a precision: in fp32 in float32, in the others as bf16 where the
// CPU is faster at that.
ScanFunction active_scan(Precision precision);

// Of "fp32", "bf16" or "int8"; throws std::invalid_argument for another name.
Precision precision_named(const std::string &name);

}  // namespace adaptive_search
