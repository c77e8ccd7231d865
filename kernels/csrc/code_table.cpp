#include "code_table.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace adaptive_search {
namespace {

constexpr std::int32_t kMiddle = 128;
constexpr float kLargest = 127.0f;
constexpr std::int64_t kNumberBytes = sizeof(std::uint32_t);
constexpr std::int64_t kLargestCode = 255, kLargestWeight = 127;
constexpr std::int64_t kLargestScore = std::numeric_limits<std::int32_t>::max();

// Blocks scored between two looks at the least score: 16 KB of codes of 64 dims, which stay in the
// first-level cache while the queries of a batch take turns.
constexpr std::int64_t kScanBlocks = 16;

// The nearest whole number from -127 to 127, by an addition that leaves no room for a fraction: a
// loop over it becomes vector instructions. What is no number becomes -127.
std::int32_t to_code(float value) {
    constexpr float kRoom = 0x1.8p23f;
    value = value > -kLargest ? value : -kLargest;
    value = value < kLargest ? value : kLargest;
    return static_cast<std::int32_t>((value + kRoom) - kRoom);
}

// Uninitialised memory, in large pages where it is large: lists are read at random, and each small
// page would need its own entry in the tables of the processor.
std::uint8_t* allocate(std::size_t size) {
    constexpr std::size_t kPage = std::size_t{2} << 20;
    const std::size_t align = size < 2 * kPage ? std::size_t{kGroupBytes} : kPage;
    void* memory = std::aligned_alloc(align, std::max(size, align) / align * align + align);
    if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    if (align == kPage) madvise(memory, size / kPage * kPage, MADV_HUGEPAGE);  // a wish
#endif
    return static_cast<std::uint8_t*>(memory);
}

}  // namespace

CodeTable::CodeTable(const std::vector<std::int64_t>& list_rows, Scale scale, std::int64_t rows,
                     const std::uint8_t* data)
    : scale_(std::move(scale)),
      groups_((dim() + kGroupDims - 1) / kGroupDims),
      row_limit_(static_cast<std::uint32_t>(rows)),
      first_block_{0},
      data_(data),
      scan_(active_scan_codes()) {
    for (const std::int64_t count : list_rows) {
        first_block_.push_back(first_block_.back() + (count + kBlockRows - 1) / kBlockRows);
    }
}

CodeTable::CodeTable(const std::vector<std::int64_t>& list_rows, Scale scale, std::int64_t rows)
    : CodeTable(list_rows, std::move(scale), rows, nullptr) {
    own_.reset(allocate(bytes()));
    data_ = own_.get();
    for (std::int64_t list = 0; list < lists(); ++list) {
        std::uint8_t* codes = own_.get() + first_block(list) * stride();
        std::fill_n(codes, numbers_at(list), static_cast<std::uint8_t>(kMiddle));
        // No row has the largest number, which stands behind the last row of a list.
        std::fill(codes + numbers_at(list), codes + bytes(list), std::uint8_t{0xff});
    }
}

void CodeTable::put(std::int64_t list, std::int64_t at, std::uint32_t row, const float* x) {
    std::uint8_t* codes = own_.get() + first_block(list) * stride();
    std::memcpy(codes + numbers_at(list) + at * kNumberBytes, &row, sizeof row);
    std::uint8_t* place =
        codes + at / kBlockRows * groups_ * kGroupBytes + at % kBlockRows * kGroupDims;
    const float* centre = scale_.centre.data();
    const float* step = scale_.step.data();
    for (std::int64_t d = 0; d < dim(); ++d) {
        place[d / kGroupDims * kGroupBytes + d % kGroupDims] =
            static_cast<std::uint8_t>(to_code((x[d] - centre[d]) / step[d]) + kMiddle);
    }
}

float CodeTable::encode_query(const float* query, std::int8_t* codes) const {
    std::fill_n(codes, groups_ * kGroupDims, std::int8_t{0});
    float largest = 0.0f;
    for (std::int64_t d = 0; d < dim(); ++d) {
        largest = std::max(largest, std::fabs(query[d] * scale_.step[static_cast<std::size_t>(d)]));
    }
    if (largest == 0.0f) return 0.0f;
    const float factor = kLargest / largest;
    for (std::int64_t d = 0; d < dim(); ++d) {
        const float value = query[d] * scale_.step[static_cast<std::size_t>(d)] * factor;
        codes[d] = static_cast<std::int8_t>(to_code(value));
    }
    return factor;
}

std::int32_t CodeTable::to_offset(float product, float unit) const {
    const float value = product * unit;
    if (std::isnan(value)) return 0;
    const std::int64_t most = groups_ * kGroupDims * kLargestCode * kLargestWeight;
    const double room = static_cast<double>(std::max<std::int64_t>(kLargestScore - most, 0));
    return static_cast<std::int32_t>(
        std::nearbyint(std::clamp(static_cast<double>(value), -room, room)));
}

void CodeTable::scan(const std::int8_t* query, std::int64_t list, std::int64_t begin,
                     std::int64_t end, const std::uint8_t* ahead, const bool* mask,
                     std::int32_t offset, TopCodes& best) const {
    std::int32_t scores[kScanBlocks * kBlockRows];
    std::int32_t places[kScanBlocks * kBlockRows];
    const std::uint8_t* numbers = data(list) + numbers_at(list);
    for (std::int64_t b = begin; b < end; b += kScanBlocks) {
        const std::int64_t count = std::min(kScanBlocks, end - b);
        const std::int64_t skipped = b * groups_ * kGroupBytes;
        const std::int64_t least = std::max<std::int64_t>(
            std::int64_t{best.least()} - offset, std::numeric_limits<std::int32_t>::min());
        if (least > kLargestScore) return;
        const std::int64_t found =
            scan_(data(list) + skipped, count, groups_, query, static_cast<std::int32_t>(least),
                  ahead + skipped, scores, places);
        for (std::int64_t i = 0; i < found; ++i) {
            std::uint32_t row;
            std::memcpy(&row, numbers + (b * kBlockRows + places[i]) * kNumberBytes, sizeof row);
            if (row < row_limit_ && (mask == nullptr || mask[row])) {
                best.add(scores[i] + offset, row);
            }
        }
    }
}

void CodeTable::scan_list(const std::int8_t* query, std::int64_t list, const std::uint8_t* ahead,
                          const bool* mask, std::int32_t offset, TopCodes& best) const {
    scan(query, list, 0, blocks(list), ahead, mask, offset, best);
}

void CodeTable::scan_all(const std::int8_t* queries, const bool* mask,
                         std::vector<TopCodes>& best) const {
    for (std::int64_t list = 0; list < lists(); ++list) {
        for (std::int64_t b = 0; b < blocks(list); b += kScanBlocks) {
            const std::int64_t end = std::min(b + kScanBlocks, blocks(list));
            for (std::size_t q = 0; q < best.size(); ++q) {
                const std::int8_t* query =
                    queries + static_cast<std::int64_t>(q) * groups_ * kGroupDims;
                scan(query, list, b, end, data(list), mask, 0, best[q]);
            }
        }
    }
}

}  // namespace adaptive_search
