// Search in nested vectors: lists, codes and cascade in one call for a batch of queries.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "cascade.h"
#include "code_table.h"
#include "object_pool.h"
#include "paging.h"
#include "parallel.h"

namespace nb = nanobind;

namespace adaptive_search {
namespace {

template <typename T, int Dims>
using Input = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
template <typename T, int Dims>
using Output = nb::ndarray<T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
using BandArray = Input<std::uint16_t, 2>;
using LengthsArray = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu>;  // of any stride

// Queries that share one pass over all codes.
constexpr std::size_t kQueriesAtOnce = 8;
// How far ahead of a scan lists come from memory.
constexpr std::size_t kBytesAhead = 16384, kMostAhead = 16;
// Rows coded as one piece of work.
constexpr std::size_t kRowsAtOnce = 4096;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("search: ") + what);
}

std::int64_t size_of(std::size_t n) { return static_cast<std::int64_t>(n); }

std::vector<SegmentRows> segments_of(const std::vector<std::vector<BandArray>>& bands) {
    require(!bands.empty(), "at least one segment is needed");
    std::vector<SegmentRows> segments;
    std::int64_t first = 0;
    for (const auto& segment : bands) {
        require(segment.size() == bands[0].size() && !segment.empty(),
                "all segments must have the same bands");
        SegmentRows rows{first, size_of(segment[0].shape(0)), {}, {}};
        for (std::size_t b = 0; b < segment.size(); ++b) {
            require(size_of(segment[b].shape(0)) == rows.count &&
                        segment[b].shape(1) == bands[0][b].shape(1),
                    "bands must have the rows of their segment and one width in all segments");
            rows.bands.push_back({segment[b].data(), size_of(segment[b].shape(1))});
        }
        first += rows.count;
        segments.push_back(std::move(rows));
    }
    return segments;
}

// Float16 numbers (as bits) in float32. What is not finite becomes some number: such rows are found,
// if at all, with the score that the bands give them.
void widen(const std::uint16_t* half, std::int64_t count, float* out) {
    for (std::int64_t j = 0; j < count; ++j) {
        const std::uint32_t bits = (half[j] & 0x7fffu) << 13 | (half[j] & 0x8000u) << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        out[j] = value * 0x1p112f;  // moves the exponent's bias from 15 to 127
    }
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
          const Input<float, 1>& step, bool unit, std::int64_t threads,
          const std::optional<Input<std::uint8_t, 1>>& kept,
          const std::optional<Input<std::int64_t, 1>>& kept_list_rows)
        : kept_data_(kept) {
        require(centre.size() == step.size() && centre.size() > 0,
                "centre and step must have one number a dim");
        const Scale scale{{centre.data(), centre.data() + centre.size()},
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
    std::int64_t query_bytes() const { return tables_[0].groups() * kGroupDims; }

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
            const std::size_t mean = table.bytes() / static_cast<std::size_t>(table.lists()) + 1;
            const std::size_t far = std::clamp<std::size_t>(kBytesAhead / mean, 1, kMostAhead);
            for (std::size_t l = 0; l < lists.size(); ++l) {
                const std::uint8_t* ahead = table.data(lists[std::min(l + far, lists.size() - 1)]);
                table.scan_list(query, lists[l], ahead, mask, offsets[l], best);
            }
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
        if (lists() == 1) return;
        will_read_at_random(data.data(), data.size());
        read_before_ = std::make_unique<std::atomic<bool>[]>(counts.size());
    }

    // Has the system read kept lists that no query read before, all at a time.
    void fetch(const std::vector<std::int64_t>& lists) const {
        for (const std::int64_t list : lists) {
            std::atomic<bool>& read = read_before_[static_cast<std::size_t>(list)];
            if (read.load(std::memory_order_relaxed)) continue;
            read.store(true, std::memory_order_relaxed);
            will_read(tables_[0].data(list), tables_[0].bytes(list));
        }
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

// Everything that one search is about.
struct Request {
    const Codes* heads;
    const Codes* router;
    const float* head_queries;
    const float* route_queries;
    Band tails;  // of each list; without data if scores are those of heads alone
    const float* tail_queries;
    const float* queries;
    std::int64_t dim;
    const std::vector<std::int64_t>* given;  // candidates of all queries, instead of a shortlist
    std::int64_t nprobe;
    std::int64_t shortlist;
    const bool* mask;
    std::vector<Step> steps;
    const float* margins;  // (queries, steps)
    std::int64_t k;
};

class Searcher {
   public:
    Searcher(const std::vector<std::vector<BandArray>>& bands,
             const std::vector<std::vector<LengthsArray>>& lengths)
        : bands_(bands), lengths_(lengths), cascade_(with_lengths(bands, lengths)) {
        for (const BandArray& band : bands[0]) widths_.push_back(size_of(band.shape(1)));
    }

    void search(const Codes* heads, const Codes* router,
                const std::optional<Input<float, 2>>& head_queries,
                const std::optional<Input<float, 2>>& route_queries,
                const std::optional<BandArray>& tails,
                const std::optional<Input<float, 2>>& tail_queries,
                const std::optional<Input<std::int64_t, 1>>& candidates, std::int64_t nprobe,
                std::int64_t shortlist, const std::optional<Input<bool, 1>>& mask,
                const Input<float, 2>& queries, const Input<std::int64_t, 2>& steps,
                const Input<float, 2>& margins, std::int64_t threads,
                const Output<float, 2>& scores, const Output<std::int64_t, 2>& found,
                const Output<std::int64_t, 1>& taken, const Output<double, 1>& spent) const {
        const std::size_t count = queries.shape(0);
        Request request{heads,
                        router,
                        nullptr,
                        nullptr,
                        {nullptr, 0},
                        nullptr,
                        queries.data(),
                        size_of(queries.shape(1)),
                        nullptr,
                        nprobe,
                        shortlist,
                        nullptr,
                        steps_of(steps, size_of(queries.shape(1))),
                        margins.data(),
                        size_of(scores.shape(1))};
        require(request.k > 0 && shortlist > 0 && nprobe >= 0 && threads > 0,
                "k, shortlist and threads must be positive");
        require(margins.shape(0) == count && margins.shape(1) == steps.shape(0),
                "margins must be (queries, steps)");
        require(scores.shape(0) == count && found.shape(0) == count &&
                    found.shape(1) == scores.shape(1) && taken.size() == count &&
                    spent.size() == steps.shape(0) + 1,
                "a result has the wrong shape");
        std::vector<std::int64_t> given;
        if (candidates) {
            for (std::size_t i = 0; i < candidates->size(); ++i) {
                const std::int64_t row = candidates->data()[i];
                require(row >= 0 && row < cascade_.rows(), "a candidate is not a row");
                given.push_back(row);
            }
            request.given = &given;
        } else {
            check_heads(request, head_queries, route_queries, count);
            if (tails) check_tails(request, *tails, tail_queries, count);
        }
        if (mask) {
            require(size_of(mask->size()) == cascade_.rows(), "mask needs one value a row");
            request.mask = mask->data();
        }
        nb::gil_scoped_release release;
        const std::size_t workers = static_cast<std::size_t>(threads);
        std::vector<double> times(workers * spent.size(), 0.0);
        run_ranges(count, kQueriesAtOnce, workers,
                   [&](std::size_t begin, std::size_t end, std::size_t worker) {
                       run(request, begin, end, times.data() + worker * spent.size(),
                           scores.data(), found.data(), taken.data());
                   });
        for (std::size_t s = 0; s < spent.size(); ++s) {
            spent.data()[s] = 0.0;
            for (std::size_t w = 0; w < workers; ++w) {
                spent.data()[s] = std::max(spent.data()[s], times[w * spent.size() + s]);
            }
        }
    }

   private:
    static std::vector<SegmentRows> with_lengths(
        const std::vector<std::vector<BandArray>>& bands,
        const std::vector<std::vector<LengthsArray>>& lengths) {
        std::vector<SegmentRows> segments = segments_of(bands);
        require(lengths.empty() || lengths.size() == bands.size(),
                "lengths must be given for all segments or for none");
        for (std::size_t s = 0; s < lengths.size(); ++s) {
            require(lengths[s].size() >= bands[s].size(), "lengths are needed for each prefix");
            for (const auto& values : lengths[s]) {
                require(size_of(values.size()) == segments[s].count,
                        "lengths need one number a row");
                require(values.size() < 2 || values.stride(0) > 0, "lengths must lie in order");
                const std::int64_t stride = values.size() < 2 ? 1 : values.stride(0);
                segments[s].lengths.push_back({values.data(), stride});
            }
        }
        return segments;
    }

    std::vector<Step> steps_of(const Input<std::int64_t, 2>& steps, std::int64_t dim) const {
        require(steps.shape(0) > 0 && steps.shape(1) == 2, "steps must be (n, 2): bands, kept");
        std::vector<Step> found;
        int before = 0;
        for (std::size_t s = 0; s < steps.shape(0); ++s) {
            const std::int64_t bands = steps.data()[2 * s], keep = steps.data()[2 * s + 1];
            require(bands > before && bands <= size_of(widths_.size()) && keep > 0,
                    "steps must rise within the bands and keep something");
            before = static_cast<int>(bands);
            found.push_back({before, keep, 0.0f});
        }
        std::int64_t width = 0;
        for (int b = 0; b < before; ++b) width += widths_[static_cast<std::size_t>(b)];
        require(width == dim, "queries must have the dims of the last step");
        return found;
    }

    void check_heads(Request& request, const std::optional<Input<float, 2>>& head_queries,
                     const std::optional<Input<float, 2>>& route_queries, std::size_t count) const {
        require(request.heads != nullptr && head_queries.has_value(),
                "either candidates or heads are needed");
        require(request.heads->rows() == cascade_.rows(), "heads and bands differ in their rows");
        require(head_queries->shape(0) == count &&
                    size_of(head_queries->shape(1)) == request.heads->dim(),
                "the queries do not fit the heads");
        request.head_queries = head_queries->data();
        if (request.router == nullptr) return;
        require(request.nprobe > 0 && request.router->rows() == request.heads->lists() &&
                    route_queries.has_value() && route_queries->shape(0) == count &&
                    size_of(route_queries->shape(1)) == request.router->dim(),
                "the router does not fit the lists, or the queries do not fit the router");
        request.route_queries = route_queries->data();
    }

    static void check_tails(Request& request, const BandArray& tails,
                            const std::optional<Input<float, 2>>& tail_queries,
                            std::size_t count) {
        require(request.router != nullptr && size_of(tails.shape(0)) == request.router->rows(),
                "tails need lists, one row for each");
        require(tail_queries.has_value() && tail_queries->shape(0) == count &&
                    tail_queries->shape(1) == tails.shape(1),
                "the queries do not fit the tails");
        request.tails = {tails.data(), size_of(tails.shape(1))};
        request.tail_queries = tail_queries->data();
    }

    // All of a search for the queries from begin to end.
    void run(const Request& r, std::size_t begin, std::size_t end, double* spent, float* scores,
             std::int64_t* found, std::int64_t* taken) const {
        std::vector<std::vector<std::int64_t>> candidates(end - begin);
        if (r.given == nullptr) {
            const double start = now();
            candidates = shortlists(r, size_of(begin), size_of(end));
            spent[0] += now() - start;
        }
        std::vector<Step> steps = r.steps;
        std::unique_ptr<CascadeSpace> space = spaces_.take();
        for (std::size_t q = begin; q < end; ++q) {
            for (std::size_t s = 0; s < steps.size(); ++s) {
                steps[s].margin = r.margins[q * steps.size() + s];
            }
            int last = 0;
            const auto hits =
                cascade_.rank(r.given == nullptr ? candidates[q - begin] : *r.given,
                              r.queries + size_of(q) * r.dim, steps, r.k, *space, last,
                              spent + 1);
            taken[q] = last;
            for (std::size_t i = 0; i < static_cast<std::size_t>(r.k); ++i) {
                const std::size_t at = q * static_cast<std::size_t>(r.k) + i;
                scores[at] = i < hits.size() ? hits[i].score : kNoScore;
                found[at] = i < hits.size() ? hits[i].row : kNoRow;
            }
        }
        spaces_.give(std::move(space));
    }

    static std::vector<std::vector<std::int64_t>> shortlists(const Request& r, std::int64_t begin,
                                                             std::int64_t end) {
        const std::int64_t count = end - begin;
        const auto heads = r.heads->encode(r.head_queries + begin * r.heads->dim(), count);
        std::vector<std::vector<std::int64_t>> found;
        if (r.router == nullptr) {
            for (TopCodes& best :
                 r.heads->scan_all(heads.codes.data(), count, r.shortlist, r.mask)) {
                found.push_back(best.rows(false));
            }
            return found;
        }
        const auto routes = r.router->encode(r.route_queries + begin * r.router->dim(), count);
        auto nearest = r.router->scan_all(routes.codes.data(), count, r.nprobe, nullptr);
        for (std::int64_t q = 0; q < count; ++q) {
            const std::size_t at = static_cast<std::size_t>(q);
            const auto lists = nearest[at].rows(true);
            const auto offsets = offsets_of(r, begin + q, heads.units[at], lists);
            TopCodes best(r.shortlist);
            r.heads->scan_lists(heads.codes.data() + q * r.heads->query_bytes(), lists, offsets,
                                r.mask, best);
            found.push_back(best.rows(false));
        }
        return found;
    }

    // What the tail of each list adds to the scores of its rows for a query.
    static std::vector<std::int32_t> offsets_of(const Request& r, std::int64_t q, float unit,
                                                const std::vector<std::int64_t>& lists) {
        std::vector<std::int32_t> offsets(lists.size(), 0);
        if (r.tails.data == nullptr) return offsets;
        const DotF16 dot = active_dot_f16();
        const float* query = r.tail_queries + q * r.tails.width;
        for (std::size_t l = 0; l < lists.size(); ++l) {
            float lanes[kLanes] = {};
            const float product = dot(&r.tails, 1, lists[l], query, lanes);
            offsets[l] = r.heads->tables()[0].to_offset(product, unit);
        }
        return offsets;
    }

    std::vector<std::vector<BandArray>> bands_;  // they own what the cascade points to
    std::vector<std::vector<LengthsArray>> lengths_;
    std::vector<std::int64_t> widths_;
    Cascade cascade_;
    mutable ObjectPool<CascadeSpace> spaces_{[] { return std::make_unique<CascadeSpace>(); }};
};

}  // namespace
}  // namespace adaptive_search

void bind_search(nb::module_& m) {
    using namespace adaptive_search;
    nb::class_<Codes>(m, "Codes")
        .def(nb::init<const std::vector<std::vector<BandArray>>&,
                      const std::optional<Input<std::int64_t, 1>>&, const Input<std::int64_t, 1>&,
                      const Input<float, 1>&, const Input<float, 1>&, bool, std::int64_t,
                      const std::optional<Input<std::uint8_t, 1>>&,
                      const std::optional<Input<std::int64_t, 1>>&>(),
             nb::arg("bands"), nb::arg("order").none(), nb::arg("list_rows"), nb::arg("centre"),
             nb::arg("step"), nb::arg("unit"), nb::arg("threads"), nb::arg("kept").none(),
             nb::arg("kept_list_rows").none())
        .def_prop_ro("rows", &Codes::rows)
        .def_prop_ro("lists", &Codes::lists)
        .def_prop_ro("bytes", &Codes::bytes)
        .def_prop_ro(
            "data",
            [](const Codes& codes) {
                require(codes.tables().size() == 1, "codes in two parts are not kept");
                return nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>>(
                    codes.tables()[0].data(), {codes.bytes()}, nb::handle());
            },
            nb::rv_policy::reference_internal)
        .def("nearest", &Codes::nearest, nb::arg("queries"), nb::arg("threads"), nb::arg("found"));
    nb::class_<Searcher>(m, "Searcher")
        .def(nb::init<const std::vector<std::vector<BandArray>>&,
                      const std::vector<std::vector<LengthsArray>>&>(),
             nb::arg("bands"), nb::arg("lengths"))
        .def("search", &Searcher::search, nb::arg("heads").none(), nb::arg("router").none(),
             nb::arg("head_queries").none(), nb::arg("route_queries").none(),
             nb::arg("tails").none(), nb::arg("tail_queries").none(),
             nb::arg("candidates").none(), nb::arg("nprobe"), nb::arg("shortlist"),
             nb::arg("mask").none(), nb::arg("queries"), nb::arg("steps"), nb::arg("margins"),
             nb::arg("threads"), nb::arg("scores"), nb::arg("found"), nb::arg("taken"),
             nb::arg("spent"));
}
