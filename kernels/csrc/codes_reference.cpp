#include "codes.h"

namespace adaptive_search {
namespace {

template <std::int64_t kBits>
std::int64_t scan(const std::uint8_t* blocks, std::int64_t count, std::int64_t lines,
                  const std::int8_t* query, std::int32_t least, std::int32_t* scores,
                  std::int32_t* places) {
    std::int64_t found = 0;
    for (std::int64_t place = 0; place < count * kBlockRows; ++place) {
        const std::uint8_t* row = blocks + place / kBlockRows * lines * kLineBytes +
                                  place % kBlockRows * kRowBytes;
        std::int32_t score = 0;
        for (std::int64_t d = 0; d < lines * line_dims(kBits); ++d) {
            const std::int64_t line = d / line_dims(kBits);
            const std::int64_t shift = d % line_dims(kBits) / kRowBytes * kBits;
            const int code = row[line * kLineBytes + d % kRowBytes] >> shift & ((1 << kBits) - 1);
            score += code * query[d];
        }
        if (score >= least) {
            scores[found] = score;
            places[found++] = static_cast<std::int32_t>(place);
        }
    }
    return found;
}

}  // namespace

std::int64_t scan_bytes_reference(const std::uint8_t* blocks, std::int64_t count,
                                  std::int64_t lines, const std::int8_t* query,
                                  std::int32_t least, const std::uint8_t* /*ahead*/,
                                  std::int32_t* scores, std::int32_t* places) {
    return scan<8>(blocks, count, lines, query, least, scores, places);
}

std::int64_t scan_nibbles_reference(const std::uint8_t* blocks, std::int64_t count,
                                    std::int64_t lines, const std::int8_t* query,
                                    std::int32_t least, const std::uint8_t* /*ahead*/,
                                    std::int32_t* scores, std::int32_t* places) {
    return scan<4>(blocks, count, lines, query, least, scores, places);
}

}  // namespace adaptive_search
