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

constexpr std::int64_t kNumberBytes = sizeof(std::uint32_t);
constexpr std::int64_t kLargestWeight = 127;
constexpr std::int64_t kLargestScore = std::numeric_limits<std::int32_t>::max();

// Blocks scored between two looks at the least score where all are scanned: 16 KB of codes of 64
// dims, which stay in the first-level cache while the queries of a batch take turns.
constexpr std::int64_t kScanBlocks = 16;

// How far ahead of a scan lists come from memory.
constexpr std::int64_t kBytesAhead = 16384;

// The nearest whole number from -largest to largest, by an addition that leaves no room for a
// fraction: a loop over it becomes vector instructions. What is no number becomes -largest.
std::int32_t to_code(float value, float largest) {
    constexpr float kRoom = 0x1.8p23f;
    value = value > -largest ? value : -largest;
    value = value < largest ? value : largest;
    return static_cast<std::int32_t>((value + kRoom) - kRoom);
}

// Dims of a row that are coded together, whole lines of them.
constexpr std::int64_t kDimsAtOnce = 64;

// Uninitialised memory, in large pages where it is large: lists are read at random, and each small
// page would need its own entry in the tables of the processor.
std::uint8_t* allocate(std::size_t size) {
    constexpr std::size_t kPage = std::size_t{2} << 20;
    const std::size_t align = size < 2 * kPage ? std::size_t{kLineBytes} : kPage;
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
      lines_((dim() + line_dims(scale_.bits) - 1) / line_dims(scale_.bits)),
      row_limit_(static_cast<std::uint32_t>(rows)),
      first_block_{0},
      data_(data),
      scan_(active_scan_codes(scale_.bits)) {
    for (const std::int64_t count : list_rows) {
        first_block_.push_back(first_block_.back() + (count + kBlockRows - 1) / kBlockRows);
    }
}

CodeTable::CodeTable(const std::vector<std::int64_t>& list_rows, Scale scale, std::int64_t rows)
    : CodeTable(list_rows, std::move(scale), rows, nullptr) {
    own_.reset(allocate(bytes()));
    data_ = own_.get();
    const std::int32_t middle = scale_.largest() + 1;
    const std::int32_t filling = scale_.bits == 8 ? middle : middle << 4 | middle;
    for (std::int64_t list = 0; list < lists(); ++list) {
        std::uint8_t* codes = own_.get() + first_block(list) * stride();
        std::fill_n(codes, numbers_at(list), static_cast<std::uint8_t>(filling));
        // No row has the largest number, which stands behind the last row of a list.
        std::fill(codes + numbers_at(list), codes + bytes(list), std::uint8_t{0xff});
    }
}

void CodeTable::put(std::int64_t list, std::int64_t at, std::uint32_t row, const float* x) {
    std::uint8_t* codes = own_.get() + first_block(list) * stride();
    std::memcpy(codes + numbers_at(list) + at * kNumberBytes, &row, sizeof row);
    std::uint8_t* place =
        codes + at / kBlockRows * block_bytes() + at % kBlockRows * kRowBytes;
    const float* centre = scale_.centre.data();
    const float* step = scale_.step.data();
    const std::int32_t largest = scale_.largest();
    const std::int64_t of_line = line_dims(scale_.bits);
    for (std::int64_t begin = 0; begin < dim(); begin += kDimsAtOnce) {
        const std::int64_t count = std::min(kDimsAtOnce, dim() - begin);
        std::uint8_t dims[kDimsAtOnce + kRowBytes] = {};
        for (std::int64_t i = 0; i < count; ++i) {
            const float value = (x[begin + i] - centre[begin + i]) / step[begin + i];
            const std::int32_t code = to_code(value, static_cast<float>(largest)) + largest + 1;
            dims[i] = static_cast<std::uint8_t>(code);
        }
        std::uint8_t* line = place + begin / of_line * kLineBytes;
        for (std::int64_t i = 0; i < count; i += of_line, line += kLineBytes) {
            for (std::int64_t j = 0; j < std::min(kRowBytes, count - i); ++j) {
                line[j] = dims[i + j];
                if (of_line > kRowBytes) line[j] |= dims[i + kRowBytes + j] << 4;
            }
        }
    }
}

float CodeTable::encode_query(const float* query, std::int8_t* codes) const {
    std::fill_n(codes, query_bytes(), std::int8_t{0});
    float largest = 0.0f;
    for (std::int64_t d = 0; d < dim(); ++d) {
        largest = std::max(largest, std::fabs(query[d] * scale_.step[static_cast<std::size_t>(d)]));
    }
    if (largest == 0.0f) return 0.0f;
    const float factor = kLargestWeight / largest;
    for (std::int64_t d = 0; d < dim(); ++d) {
        const float value = query[d] * scale_.step[static_cast<std::size_t>(d)] * factor;
        codes[d] = static_cast<std::int8_t>(to_code(value, kLargestWeight));
    }
    return factor;
}

std::int32_t CodeTable::to_offset(float product, float unit) const {
    const float value = product * unit;
    if (std::isnan(value)) return 0;
    const std::int64_t most = query_bytes() * (2 * scale_.largest() + 1) * kLargestWeight;
    const double room = static_cast<double>(std::max<std::int64_t>(kLargestScore - most, 0));
    return static_cast<std::int32_t>(
        std::nearbyint(std::clamp(static_cast<double>(value), -room, room)));
}

// Goes from block to block of lists, and stays at the last. The numbers of each block's rows, which
// lie apart from its codes, are asked of memory on the way.
class CodeTable::BlockWalk {
   public:
    BlockWalk(const CodeTable& table, const std::vector<std::int64_t>& lists)
        : table_(table), lists_(lists) {}

    // Where the codes of the next block begin.
    const std::uint8_t* next() {
        while (left_ == 0 && list_ < lists_.size()) {
            next_ = table_.data(lists_[list_]);
            numbers_ = next_ + table_.numbers_at(lists_[list_]);
            left_ = table_.blocks(lists_[list_++]);
        }
        const std::uint8_t* found = next_;
        if (left_ > 0) {
            __builtin_prefetch(numbers_, 0, kNear);
            next_ += table_.block_bytes();
            numbers_ += kLineBytes;
            --left_;
        }
        return found;
    }

   private:
    const CodeTable& table_;
    const std::vector<std::int64_t>& lists_;
    std::size_t list_ = 0;
    std::int64_t left_ = 0;  // blocks of the list before that one
    const std::uint8_t* next_ = nullptr;
    const std::uint8_t* numbers_ = nullptr;
};

void CodeTable::scan(const std::int8_t* query, std::int64_t list, std::int64_t begin,
                     std::int64_t count, const std::uint8_t* ahead, const bool* mask,
                     std::int32_t offset, TopCodes& best) const {
    const std::int64_t least = std::max<std::int64_t>(std::int64_t{best.least()} - offset,
                                                      std::numeric_limits<std::int32_t>::min());
    if (least > kLargestScore) return;
    std::int32_t scores[kScanBlocks * kBlockRows];
    std::int32_t places[kScanBlocks * kBlockRows];
    const std::int64_t found =
        scan_(data(list) + begin * block_bytes(), count, lines_, query,
              static_cast<std::int32_t>(least), ahead, scores, places);
    const std::uint8_t* numbers = data(list) + numbers_at(list) + begin * kLineBytes;
    for (std::int64_t i = 0; i < found; ++i) {
        std::uint32_t row;
        std::memcpy(&row, numbers + places[i] * kNumberBytes, sizeof row);
        if (row < row_limit_ && (mask == nullptr || mask[row])) best.add(scores[i] + offset, row);
    }
}

void CodeTable::scan_lists(const std::int8_t* query, const std::vector<std::int64_t>& lists,
                           const std::vector<std::int32_t>& offsets, const bool* mask,
                           TopCodes& best) const {
    BlockWalk ahead(*this, lists);
    for (std::int64_t bytes = 0; bytes < kBytesAhead; bytes += block_bytes()) ahead.next();
    for (std::size_t l = 0; l < lists.size(); ++l) {
        for (std::int64_t b = 0; b < blocks(lists[l]); ++b) {
            scan(query, lists[l], b, 1, ahead.next(), mask, offsets[l], best);
        }
    }
}

void CodeTable::scan_all(const std::int8_t* queries, const bool* mask,
                         std::vector<TopCodes>& best) const {
    for (std::int64_t list = 0; list < lists(); ++list) {
        for (std::int64_t b = 0; b < blocks(list); b += kScanBlocks) {
            const std::int64_t count = std::min(kScanBlocks, blocks(list) - b);
            for (std::size_t q = 0; q < best.size(); ++q) {
                const std::int8_t* query =
                    queries + static_cast<std::int64_t>(q) * query_bytes();
                // The codes themselves, which come in order: nothing else is wished for.
                scan(query, list, b, count, data(list) + b * block_bytes(), mask, 0, best[q]);
            }
        }
    }
}

}  // namespace adaptive_search
