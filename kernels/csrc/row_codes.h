// The codes of an index's rows: made from their bands, or kept from before, and scanned.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "code_table.h"
#include "float16.h"
#include "paging.h"
#include "parallel.h"
#include "search_arrays.h"

namespace adaptive_search {

// Queries that share one pass over all codes.
constexpr std::size_t kQueriesAtOnce = 8;
// Rows coded as one piece of work.
constexpr std::size_t kRowsAtOnce = 4096;

// Float16 numbers (as bits) in float32. Rows with what is not finite are found, if at all, with the
// score that the bands give them.
inline void widen(const std::uint16_t* half, std::int64_t count, float* out) {
    for (std::int64_t j = 0; j < count; ++j) out[j] = widen(half[j]);
}

// Queries in the form of codes, and what a product of 1 adds to each one's scores.
struct CodedQueries {
    std::vector<std::int8_t> codes;
    std::vector<float> units;
};

// The codes of the lowest dims of all rows: those that were kept from before, which may lie in a
// mapped file, and those of the rows behind them.
class Codes {
   public:
    Codes(const std::vector<std::vector<BandArray>>& bands,
          const std::optional<Input<std::int64_t, 1>>& order,
          const Input<std::int64_t, 1>& list_rows, const Input<float, 1>& centre,
          const Input<float, 1>& step, std::int64_t bits, bool unit, std::int64_t threads,
          const std::optional<Input<std::uint8_t, 1>>& kept,
          const std::optional<Input<std::int64_t, 1>>& kept_list_rows)
        : kept_data_(kept) {
        require(centre.size() == step.size() && centre.size() > 0,
                "centre and step must have one number a dim");
        require(bits == 8 || bits == 4, "codes have 8 or 4 bits");
        const Scale scale{bits,
                          {centre.data(), centre.data() + centre.size()},
                          {step.data(), step.data() + step.size()}};
        if (kept) keep(*kept, *kept_list_rows, scale);
        require(kept || !bands.empty(), "at least one segment is needed");
        const std::int64_t first = rows_;
        const std::vector<std::int64_t> counts = counts_of(list_rows);
        require(tables_.empty() || size_of(counts.size()) == tables_[0].lists(),
                "kept codes have other lists");
        if (bands.empty()) return;
        const std::vector<SegmentRows> segments = segments_of(bands);
        const std::int64_t added = segments.back().first + segments.back().count;
        std::int64_t width = 0;
        for (const Band& band : segments[0].bands) width += band.width;
        require(width == size_of(centre.size()), "the bands and the centre differ in their dims");
        std::vector<std::int64_t> ends;
        std::int64_t total = 0;
        for (const std::int64_t count : counts) ends.push_back(total += count);
        rows_ += added;
        require(total == added && rows_ < kMostRows, "lists must divide the rows");
        if (order) {
            require(size_of(order->size()) == added, "order needs one number a row");
            for (std::size_t i = 0; i < order->size(); ++i) {
                require(order->data()[i] >= 0 && order->data()[i] < added, "order holds no row");
            }
        }
        if (added == 0 && !tables_.empty()) return;
        const std::int64_t* numbers = order ? order->data() : nullptr;
        CodeTable& table = tables_.emplace_back(counts, scale, rows_);
        nb::gil_scoped_release release;
        run_ranges(static_cast<std::size_t>(added), kRowsAtOnce, static_cast<std::size_t>(threads),
                   [&](std::size_t begin, std::size_t end, std::size_t) {
                       fill(table, first, segments, numbers, ends, size_of(begin), size_of(end),
                            unit);
                   });
    }

    // All of the same scale and lists; at least one.
    const std::vector<CodeTable>& tables() const { return tables_; }
    std::int64_t rows() const { return rows_; }
    std::int64_t dim() const { return tables_[0].dim(); }
    std::int64_t lists() const { return tables_[0].lists(); }
    std::size_t bytes() const {
        std::size_t sum = 0;
        for (const CodeTable& table : tables_) sum += table.bytes();
        return sum;
    }

    // Bytes that a query has in its form of codes.
    std::int64_t query_bytes() const { return tables_[0].query_bytes(); }

    CodedQueries encode(const float* queries, std::int64_t count) const {
        const std::size_t size = static_cast<std::size_t>(count * query_bytes());
        CodedQueries coded{std::vector<std::int8_t>(size), {}};
        for (std::int64_t q = 0; q < count; ++q) {
            coded.units.push_back(tables_[0].encode_query(queries + q * dim(),
                                                          coded.codes.data() + q * query_bytes()));
        }
        return coded;
    }

    // The best k rows for each query over all lists.
    std::vector<TopCodes> scan_all(const std::int8_t* queries, std::int64_t count, std::int64_t k,
                                   const bool* mask) const {
        std::vector<TopCodes> best;
        best.reserve(static_cast<std::size_t>(count));
        for (std::int64_t q = 0; q < count; ++q) best.emplace_back(k);
        for (const CodeTable& table : tables_) table.scan_all(queries, mask, best);
        return best;
    }

    // Adds the rows of lists to the best, with what each list adds to their scores.
    void scan_lists(const std::int8_t* query, const std::vector<std::int64_t>& lists,
                    const std::vector<std::int32_t>& offsets, const bool* mask,
                    TopCodes& best) const {
        if (read_before_) fetch(lists);
        for (const CodeTable& table : tables_) {
            table.scan_lists(query, lists, offsets, mask, best);
        }
    }

    // Writes the k best rows for each query, -1 behind the last.
    void nearest(const Input<float, 2>& queries, std::int64_t threads,
                 const Output<std::int64_t, 2>& found) const {
        require(size_of(queries.shape(1)) == dim(), "queries and codes differ in their dims");
        require(found.shape(0) == queries.shape(0) && found.shape(1) > 0,
                "found must be (queries, k)");
        const std::int64_t k = size_of(found.shape(1));
        nb::gil_scoped_release release;
        run_ranges(queries.shape(0), kQueriesAtOnce, static_cast<std::size_t>(threads),
                   [&](std::size_t begin, std::size_t end, std::size_t) {
                       const std::int64_t count = size_of(end - begin);
                       const auto coded = encode(queries.data() + size_of(begin) * dim(), count);
                       auto best = scan_all(coded.codes.data(), count, k, nullptr);
                       for (std::size_t q = begin; q < end; ++q) {
                           const auto rows = best[q - begin].rows(true);
                           std::int64_t* out = found.data() + size_of(q) * k;
                           std::fill(std::copy(rows.begin(), rows.end(), out), out + k, kNoRow);
                       }
                   });
    }

   private:
    static constexpr std::int64_t kMostRows = 0xffffffff;
    static constexpr std::ptrdiff_t kNearBytes = 32 << 10;

    static std::vector<std::int64_t> counts_of(const Input<std::int64_t, 1>& list_rows) {
        require(list_rows.size() > 0, "at least one list is needed");
        for (std::size_t l = 0; l < list_rows.size(); ++l) {
            const std::int64_t count = list_rows.data()[l];
            require(count >= 0 && count < kMostRows, "a list cannot have so many rows");
        }
        return {list_rows.data(), list_rows.data() + list_rows.size()};
    }

    void keep(const Input<std::uint8_t, 1>& data, const Input<std::int64_t, 1>& list_rows,
              const Scale& scale) {
        const std::vector<std::int64_t> counts = counts_of(list_rows);
        for (const std::int64_t count : counts) {
            rows_ += count;
            require(rows_ < kMostRows, "kept codes have too many rows");
        }
        tables_.emplace_back(counts, scale, rows_, data.data());
        require(data.size() == tables_[0].bytes(), "kept codes have the wrong size");
        if (lists() == 1) return will_read(data.data(), data.size());
        will_read_at_random(data.data(), data.size());
        read_before_ = std::make_unique<std::atomic<bool>[]>(counts.size());
    }

    // Has the system read kept lists that no query read before, all at a time. Lists that lie close
    // are read in one go with what lies between: a disk counts requests more than bytes.
    void fetch(const std::vector<std::int64_t>& lists) const {
        std::vector<std::int64_t> unread;
        for (const std::int64_t list : lists) {
            std::atomic<bool>& read = read_before_[static_cast<std::size_t>(list)];
            if (read.load(std::memory_order_relaxed)) continue;
            read.store(true, std::memory_order_relaxed);
            unread.push_back(list);
        }
        std::sort(unread.begin(), unread.end());
        const std::uint8_t *begin = nullptr, *end = nullptr;
        for (const std::int64_t list : unread) {
            const std::uint8_t* data = tables_[0].data(list);
            if (begin == nullptr || data - end > kNearBytes) {
                if (begin != nullptr) will_read(begin, static_cast<std::size_t>(end - begin));
                begin = data;
            }
            end = data + tables_[0].bytes(list);
        }
        if (begin != nullptr) will_read(begin, static_cast<std::size_t>(end - begin));
    }

    // Codes of the rows from begin to end in the order of their lists; `first` is the number of the
    // first row of the segments.
    static void fill(CodeTable& table, std::int64_t first, const std::vector<SegmentRows>& segments,
                     const std::int64_t* order, const std::vector<std::int64_t>& ends,
                     std::int64_t begin, std::int64_t end, bool unit) {
        std::vector<float> x(static_cast<std::size_t>(table.dim()));
        std::size_t list = static_cast<std::size_t>(
            std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
        for (std::int64_t i = begin; i < end; ++i) {
            while (i >= ends[list]) ++list;
            const std::int64_t row = order == nullptr ? i : order[i];
            const auto after = std::upper_bound(
                segments.begin(), segments.end(), row,
                [](std::int64_t value, const SegmentRows& s) { return value < s.first; });
            const SegmentRows& segment = *(after - 1);
            float* next = x.data();
            for (const Band& band : segment.bands) {
                widen(band.data + (row - segment.first) * band.width, band.width, next);
                next += band.width;
            }
            if (unit) to_unit(x);
            const std::int64_t start = list == 0 ? 0 : ends[list - 1];
            table.put(size_of(list), i - start, static_cast<std::uint32_t>(first + row), x.data());
        }
    }

    static void to_unit(std::vector<float>& x) {
        float squares = 0.0f;
        for (const float value : x) squares += value * value;
        if (!(squares > 0.0f)) return;
        const float length = std::sqrt(squares);
        for (float& value : x) value /= length;
    }

    std::optional<Input<std::uint8_t, 1>> kept_data_;
    std::vector<CodeTable> tables_;
    std::unique_ptr<std::atomic<bool>[]> read_before_;  // for each kept list
    std::int64_t rows_ = 0;
};

}  // namespace adaptive_search
