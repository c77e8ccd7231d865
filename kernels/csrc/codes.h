// Scans of codes of 8 and of 4 bits.
//
// Codes lie in blocks of 16 rows, and those of a block in lines of 64 bytes: four bytes of each of
// its rows, row by row. At 8 bits the first line holds dims 0 to 3, the next dims 4 to 7, and so
// on. At 4 bits a line holds twice as many: dims 0 to 3 in the low halves of the bytes, and dims 4
// to 7 in the high halves. One 64-byte register thus scores 16 rows at four or eight dims, and no
// sum runs across its lanes.
#pragma once

#include <cstdint>

namespace adaptive_search {

constexpr std::int64_t kBlockRows = 16;
constexpr std::int64_t kRowBytes = 4;  // of a line
constexpr std::int64_t kLineBytes = kBlockRows * kRowBytes;
// How near prefetched codes come: to the second-level cache, as the first holds what is scanned.
constexpr int kNear = 2;

// Dims of a line of codes that have so many bits, 8 or 4.
constexpr std::int64_t line_dims(std::int64_t bits) { return kRowBytes * 8 / bits; }

// Scores `count` blocks of `lines` lines each: the score of a row is the sum over the dims of its
// code (0 to 255, or 15) times the query's (-127 to 127), exact in 32 bits. Writes the scores that
// are at least `least`, and their places counted from the first block, in rising order; gives
// their number. As many bytes as the blocks have are prefetched from `ahead` on, which may be any
// address.
using CodeScan = std::int64_t(const std::uint8_t* blocks, std::int64_t count, std::int64_t lines,
                              const std::int8_t* query, std::int32_t least,
                              const std::uint8_t* ahead, std::int32_t* scores,
                              std::int32_t* places);
using ScanCodes = CodeScan*;

CodeScan scan_bytes_reference, scan_bytes_avx2, scan_bytes_avx512vnni, scan_bytes_neon;
CodeScan scan_nibbles_reference, scan_nibbles_avx2, scan_nibbles_avx512vnni, scan_nibbles_neon;

// The one of the level in force, of codes that have so many bits.
ScanCodes active_scan_codes(std::int64_t bits);

}  // namespace adaptive_search
