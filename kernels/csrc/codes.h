// Scans of 8-bit codes.
//
// Codes lie in blocks of 16 rows. A block holds the dims four at a time: 64 bytes for dims 0 to 3 of
// all its rows, row by row, then 64 bytes for dims 4 to 7, and so on. One 64-byte register thus
// scores 16 rows at four dims, and no sum runs across its lanes.
#pragma once

#include <cstdint>

namespace adaptive_search {

constexpr std::int64_t kBlockRows = 16;
constexpr std::int64_t kGroupDims = 4;
constexpr std::int64_t kGroupBytes = kBlockRows * kGroupDims;
// How near prefetched codes come: to the second-level cache, as the first holds what is scanned.
constexpr int kNear = 2;

// Scores `count` blocks: the score of a row is the sum over the dims of its code (0 to 255) times
// the query's (-127 to 127), exact in 32 bits. Writes the scores that are at least `least`, and
// their places counted from the first block, in rising order; gives their number. As many bytes as
// the blocks have are prefetched from `ahead` on, which may be any address.
using ScanFunction = std::int64_t(const std::uint8_t* blocks, std::int64_t count,
                                  std::int64_t groups, const std::int8_t* query,
                                  std::int32_t least, const std::uint8_t* ahead,
                                  std::int32_t* scores, std::int32_t* places);
using ScanCodes = ScanFunction*;

ScanFunction scan_codes_reference, scan_codes_avx2, scan_codes_avx512vnni, scan_codes_neon;

// The one of the level in force.
ScanCodes active_scan_codes();

}  // namespace adaptive_search
