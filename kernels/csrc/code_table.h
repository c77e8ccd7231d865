// Codes of all rows of an index, in lists, and the best of them for a query.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "codes.h"

namespace adaptive_search {

// The best rows by integer scores, equal scores by rising row. Scores only have to be compared, so a
// row and its score are one number; the worst are dropped when twice as many as needed are there.
class TopCodes {
   public:
    explicit TopCodes(std::int64_t k)
        : k_(static_cast<std::size_t>(k)), room_(2 * k_ + kSpare) {
        keys_.reserve(room_);
    }

    // Rows that score less cannot be among the best any more.
    std::int32_t least() const { return least_; }

    void add(std::int32_t score, std::uint32_t row) {
        keys_.push_back(static_cast<std::uint64_t>(score ^ kSign) << 32 |
                        static_cast<std::uint32_t>(~row));
        if (keys_.size() == room_) shrink();
    }

    // The best rows; by descending score if they are sorted.
    std::vector<std::int64_t> rows(bool sorted) {
        if (keys_.size() > k_) shrink();
        if (sorted) std::sort(keys_.begin(), keys_.end(), std::greater<>());
        std::vector<std::int64_t> found(keys_.size());
        for (std::size_t i = 0; i < found.size(); ++i) {
            found[i] = static_cast<std::int64_t>(~static_cast<std::uint32_t>(keys_[i]));
        }
        return found;
    }

   private:
    static constexpr std::size_t kSpare = 256, kFew = 64;
    static constexpr std::int32_t kSign = std::numeric_limits<std::int32_t>::min();

    void shrink() {
        select();
        keys_.resize(k_);
        const std::uint64_t worst = *std::min_element(keys_.begin(), keys_.end());
        least_ = static_cast<std::int32_t>(static_cast<std::uint32_t>(worst >> 32)) ^ kSign;
    }

    // Brings the best k to the front. A quickselect without branches on the keys, which nobody can
    // predict: it takes half of the time of std::nth_element.
    void select() {
        lower_.resize(keys_.size());
        std::size_t begin = 0, end = keys_.size();
        while (end - begin > kFew) {
            std::uint64_t samples[5];
            for (std::size_t s = 0; s < 5; ++s) samples[s] = keys_[begin + (end - begin) / 5 * s];
            std::nth_element(samples, samples + 2, samples + 5);
            const std::uint64_t pivot = samples[2];
            std::size_t front = begin, back = 0;
            for (std::size_t i = begin; i < end; ++i) {
                const std::uint64_t key = keys_[i];
                const std::size_t is_high = key >= pivot;
                keys_[front] = lower_[back] = key;
                front += is_high;
                back += 1 - is_high;
            }
            std::copy_n(lower_.begin(), back, keys_.begin() + static_cast<std::ptrdiff_t>(front));
            if (front == k_) return;
            if (front == end) break;  // keys are equal, as damage may make them
            (front > k_ ? end : begin) = front;
        }
        const auto at = [&](std::size_t n) {
            return keys_.begin() + static_cast<std::ptrdiff_t>(n);
        };
        std::nth_element(at(begin), at(k_), at(end), std::greater<>());
    }

    std::size_t k_;
    std::size_t room_;
    std::int32_t least_ = kSign;
    std::vector<std::uint64_t> keys_;
    std::vector<std::uint64_t> lower_;  // room to select in
};

// How a coordinate becomes a code: (x - centre) / step, rounded, at most `largest` either way, and
// stored as what it is above -(largest + 1).
struct Scale {
    std::int64_t bits;  // of a code, 8 or 4
    std::vector<float> centre;
    std::vector<float> step;

    std::int32_t largest() const { return (1 << (bits - 1)) - 1; }
};

// Codes of some rows. The blocks of a list lie one after the other, and behind them the numbers of
// its rows, in the order of the codes. Each list starts a block.
class CodeTable {
   public:
    // Codes to be put in, of rows with numbers below `rows`.
    CodeTable(const std::vector<std::int64_t>& list_rows, Scale scale, std::int64_t rows);

    // Codes as an earlier table had them; `data` belongs to the caller. Nothing in it is believed:
    // whatever the bytes are, no row from `rows` on is found.
    CodeTable(const std::vector<std::int64_t>& list_rows, Scale scale, std::int64_t rows,
              const std::uint8_t* data);

    std::int64_t dim() const { return static_cast<std::int64_t>(scale_.centre.size()); }
    // Bytes that a query has in its form of codes: whole lines of them.
    std::int64_t query_bytes() const { return lines_ * line_dims(scale_.bits); }
    std::int64_t lists() const { return static_cast<std::int64_t>(first_block_.size()) - 1; }
    std::size_t bytes() const { return static_cast<std::size_t>(first_block_.back() * stride()); }
    std::size_t bytes(std::int64_t list) const {
        return static_cast<std::size_t>(blocks(list) * stride());
    }
    const std::uint8_t* data() const { return data_; }
    const std::uint8_t* data(std::int64_t list) const {
        return data_ + first_block(list) * stride();
    }

    // Stores a row as number `at` of a list. x: float32 (dim,).
    void put(std::int64_t list, std::int64_t at, std::uint32_t row, const float* x);

    // The codes of a query: float32 (dim,) to int8 (query_bytes(),). The steps of the rows are in
    // them, and the centre, which adds the same to all scores, is left out. Gives how much a product
    // of 1 with the rows themselves adds to a score; 0 for a query without length.
    float encode_query(const float* query, std::int8_t* codes) const;

    // A product with the rows themselves in the units of scores, so that no sum with a score
    // overflows. What is no number counts as 0.
    std::int32_t to_offset(float product, float unit) const;

    // Adds the rows of lists to the best, only those that the mask allows, with the offset of each
    // list added to their scores.
    void scan_lists(const std::int8_t* query, const std::vector<std::int64_t>& lists,
                    const std::vector<std::int32_t>& offsets, const bool* mask,
                    TopCodes& best) const;

    // Adds the rows of all lists to the best of each query, a few queries at a time, so that codes
    // come from memory once for all of them.
    void scan_all(const std::int8_t* queries, const bool* mask, std::vector<TopCodes>& best) const;

   private:
    struct Free {
        void operator()(std::uint8_t* p) const { std::free(p); }
    };
    std::int64_t block_bytes() const { return lines_ * kLineBytes; }
    // Bytes of a block with its row numbers.
    std::int64_t stride() const { return block_bytes() + kLineBytes; }
    std::int64_t first_block(std::int64_t list) const {
        return first_block_[static_cast<std::size_t>(list)];
    }
    std::int64_t blocks(std::int64_t list) const {
        return first_block(list + 1) - first_block(list);
    }
    // Where the numbers of a list's rows begin, in bytes from its codes on.
    std::int64_t numbers_at(std::int64_t list) const {
        return blocks(list) * block_bytes();
    }
    class BlockWalk;
    // Adds some blocks of a list to the best. As many bytes come from memory meanwhile, from
    // `ahead` on.
    void scan(const std::int8_t* query, std::int64_t list, std::int64_t begin, std::int64_t count,
              const std::uint8_t* ahead, const bool* mask, std::int32_t offset,
              TopCodes& best) const;

    Scale scale_;
    std::int64_t lines_;  // of a block's codes
    std::uint32_t row_limit_;
    std::vector<std::int64_t> first_block_;
    std::unique_ptr<std::uint8_t[], Free> own_;
    const std::uint8_t* data_;
    ScanCodes scan_;
};

}  // namespace adaptive_search
