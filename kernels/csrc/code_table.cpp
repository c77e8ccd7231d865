#include "code_table.h"

#include <cmath>
#include <new>
#include <utility>

namespace adaptive_search {
namespace {

constexpr std::int32_t kMiddle = 128;
constexpr float kLargest = 127.0f;

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

}  // namespace

CodeTable::CodeTable(std::vector<std::int64_t> list_rows, std::int64_t dim, Scale scale)
    : scale_(std::move(scale)),
      groups_((dim + kGroupDims - 1) / kGroupDims),
      first_block_{0},
      scan_(active_scan_codes()) {
    for (const std::int64_t rows : list_rows) {
        first_block_.push_back(first_block_.back() + (rows + kBlockRows - 1) / kBlockRows);
    }
    rows_.assign(static_cast<std::size_t>(blocks() * kBlockRows), kPadding);
    const std::size_t size = static_cast<std::size_t>(blocks() * groups_ * kGroupBytes);
    codes_.reset(static_cast<std::uint8_t*>(std::aligned_alloc(kGroupBytes, size + kGroupBytes)));
    if (codes_ == nullptr) throw std::bad_alloc();
    std::fill_n(codes_.get(), size, static_cast<std::uint8_t>(kMiddle));
}

std::size_t CodeTable::bytes() const {
    return static_cast<std::size_t>(blocks() * groups_ * kGroupBytes) +
           rows_.size() * sizeof rows_[0];
}

void CodeTable::put(std::int64_t list, std::int64_t at, std::uint32_t row, const float* x) {
    const std::int64_t place = first_block_[static_cast<std::size_t>(list)] * kBlockRows + at;
    rows_[static_cast<std::size_t>(place)] = row;
    std::uint8_t* codes = codes_.get() + place / kBlockRows * groups_ * kGroupBytes +
                          place % kBlockRows * kGroupDims;
    const float* centre = scale_.centre.data();
    const float* step = scale_.step.data();
    for (std::int64_t d = 0; d < dim(); ++d) {
        codes[d / kGroupDims * kGroupBytes + d % kGroupDims] =
            static_cast<std::uint8_t>(to_code((x[d] - centre[d]) / step[d]) + kMiddle);
    }
}

void CodeTable::encode_query(const float* query, std::int8_t* codes) const {
    std::fill_n(codes, groups_ * kGroupDims, std::int8_t{0});
    float largest = 0.0f;
    for (std::int64_t d = 0; d < dim(); ++d) {
        largest = std::max(largest, std::fabs(query[d] * scale_.step[static_cast<std::size_t>(d)]));
    }
    if (largest == 0.0f) return;
    const float factor = kLargest / largest;
    for (std::int64_t d = 0; d < dim(); ++d) {
        const float value = query[d] * scale_.step[static_cast<std::size_t>(d)] * factor;
        codes[d] = static_cast<std::int8_t>(to_code(value));
    }
}

void CodeTable::scan(const std::int8_t* query, std::int64_t begin, std::int64_t end,
                     const bool* mask, TopCodes& best) const {
    std::int32_t scores[kScanBlocks * kBlockRows];
    std::int32_t places[kScanBlocks * kBlockRows];
    for (std::int64_t b = begin; b < end; b += kScanBlocks) {
        const std::int64_t count = std::min(kScanBlocks, end - b);
        const std::int64_t found =
            scan_(block(b), count, groups_, query, best.least(), scores, places);
        const std::uint32_t* rows = rows_.data() + b * kBlockRows;
        for (std::int64_t i = 0; i < found; ++i) {
            const std::uint32_t row = rows[places[i]];
            if (row != kPadding && (mask == nullptr || mask[row])) best.add(scores[i], row);
        }
    }
}

void CodeTable::prefetch_list(std::int64_t list) const {
    const std::uint8_t* codes = block(first_block_[static_cast<std::size_t>(list)]);
    for (std::int64_t at = 0; at < groups_ * kGroupBytes; at += 64) __builtin_prefetch(codes + at);
}

std::vector<TopCodes> scan_all(const CodeTable& table, const std::int8_t* queries,
                               std::int64_t count, std::int64_t k, const bool* mask) {
    std::vector<TopCodes> best;
    best.reserve(static_cast<std::size_t>(count));
    for (std::int64_t q = 0; q < count; ++q) best.emplace_back(k);
    for (std::int64_t b = 0; b < table.blocks(); b += kScanBlocks) {
        const std::int64_t end = std::min(b + kScanBlocks, table.blocks());
        for (std::size_t q = 0; q < best.size(); ++q) {
            const std::int8_t* query =
                queries + static_cast<std::int64_t>(q) * table.groups() * kGroupDims;
            table.scan(query, b, end, mask, best[q]);
        }
    }
    return best;
}

}  // namespace adaptive_search
