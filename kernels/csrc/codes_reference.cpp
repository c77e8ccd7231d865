#include "codes.h"

namespace adaptive_search {

std::int64_t scan_codes_reference(const std::uint8_t* blocks, std::int64_t count,
                                  std::int64_t groups, const std::int8_t* query,
                                  std::int32_t least, const std::uint8_t* /*ahead*/,
                                  std::int32_t* scores, std::int32_t* places) {
    std::int64_t found = 0;
    for (std::int64_t place = 0; place < count * kBlockRows; ++place) {
        const std::uint8_t* block = blocks + place / kBlockRows * groups * kGroupBytes;
        std::int32_t score = 0;
        for (std::int64_t d = 0; d < groups * kGroupDims; ++d) {
            const std::int64_t at = place % kBlockRows * kGroupDims + d % kGroupDims;
            score += block[d / kGroupDims * kGroupBytes + at] * query[d];
        }
        if (score >= least) {
            scores[found] = score;
            places[found++] = static_cast<std::int32_t>(place);
        }
    }
    return found;
}

}  // namespace adaptive_search
