// The best of all rows for each query.
#include "dot_f16.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "hits.h"
#include "parallel.h"

namespace nb = nanobind;

namespace adaptive_search {
namespace {

// A scan takes this many rows (1,536 float16: 48 KB) through a group of queries at a time, so that
// rows come from memory once a group and the queries of the group stay in the second-level cache.
constexpr std::int64_t kScanRows = 16;
constexpr std::int64_t kScanQueries = 16;

// Keeps the k best hits; the worst of them is at the front of the heap.
class Best {
   public:
    explicit Best(std::int64_t k) : k_(static_cast<std::size_t>(k)) {}

    void add(Hit hit) {
        if (heap_.size() < k_) {
            heap_.push_back(hit);
            std::push_heap(heap_.begin(), heap_.end(), is_better);
        } else if (is_better(hit, heap_.front())) {
            std::pop_heap(heap_.begin(), heap_.end(), is_better);
            heap_.back() = hit;
            std::push_heap(heap_.begin(), heap_.end(), is_better);
        }
    }

    void add_all(const Best& other) {
        for (const Hit& hit : other.heap_) add(hit);
    }

    // Writes the hits from the best on, then padding up to k.
    void write(float* scores, std::int64_t* rows) {
        std::sort_heap(heap_.begin(), heap_.end(), is_better);
        for (std::size_t i = 0; i < k_; ++i) {
            scores[i] = i < heap_.size() ? heap_[i].score : kNoScore;
            rows[i] = i < heap_.size() ? heap_[i].row : kNoRow;
        }
    }

   private:
    std::size_t k_;
    std::vector<Hit> heap_;
};

// The rows of one segment and how to score them.
struct Rows {
    std::vector<Band> bands;
    std::int64_t count;
    std::int64_t dim;
    const bool* mask;      // rows that may be returned; all of them if null
    const float* lengths;  // lengths of the rows, to divide by; all 1 if null
    DotF16 dot;

    bool allows(std::int64_t row) const { return mask == nullptr || mask[row]; }

    Hit score(std::int64_t row, const float* query) const {
        float lanes[kLanes] = {};
        float value = dot(bands.data(), static_cast<int>(bands.size()), row, query, lanes);
        if (lengths != nullptr) value /= lengths[row];
        return {comparable(value), row};
    }
};

struct Queries {
    const float* data;
    std::int64_t count;
    std::int64_t dim;

    const float* at(std::int64_t i) const { return data + i * dim; }
};

// Scores the rows from begin to end for a group of queries.
void scan_range(const Rows& rows, const Queries& queries, std::int64_t first_query,
                std::int64_t begin, std::int64_t end, std::vector<Best>& best) {
    for (std::int64_t block = begin; block < end; block += kScanRows) {
        const std::int64_t block_end = std::min(block + kScanRows, end);
        for (std::size_t q = 0; q < best.size(); ++q) {
            const float* query = queries.at(first_query + static_cast<std::int64_t>(q));
            for (std::int64_t row = block; row < block_end; ++row) {
                if (rows.allows(row)) best[q].add(rows.score(row, query));
            }
        }
    }
}

// All rows against all queries; each task is a group of queries over a range of the rows.
void scan(const Rows& rows, const Queries& queries, std::int64_t k, std::int64_t threads,
          float* scores, std::int64_t* found) {
    if (queries.count == 0) return;
    const std::int64_t groups = (queries.count + kScanQueries - 1) / kScanQueries;
    const std::int64_t ranges = std::max<std::int64_t>(1, (threads + groups - 1) / groups);
    std::vector<std::vector<Best>> parts(static_cast<std::size_t>(groups * ranges));
    for (std::size_t task = 0; task < parts.size(); ++task) {
        const std::int64_t first = static_cast<std::int64_t>(task) / ranges * kScanQueries;
        const std::int64_t size = std::min(kScanQueries, queries.count - first);
        parts[task].assign(static_cast<std::size_t>(size), Best(k));
    }
    run_tasks(parts.size(), static_cast<std::size_t>(threads), [&](std::size_t i, std::size_t) {
        const std::int64_t task = static_cast<std::int64_t>(i);
        const std::int64_t range = task % ranges;
        scan_range(rows, queries, task / ranges * kScanQueries, rows.count * range / ranges,
                   rows.count * (range + 1) / ranges, parts[i]);
    });
    for (std::int64_t q = 0; q < queries.count; ++q) {
        const std::size_t first = static_cast<std::size_t>(q / kScanQueries * ranges);
        const std::size_t member = static_cast<std::size_t>(q % kScanQueries);
        Best& best = parts[first][member];
        for (std::size_t r = 1; r < static_cast<std::size_t>(ranges); ++r) {
            best.add_all(parts[first + r][member]);
        }
        best.write(scores + q * k, found + q * k);
    }
}

using BandArray = nb::ndarray<const std::uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T, int Dims>
using Input = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Output = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Rows rows_of(const std::vector<BandArray>& bands, const std::optional<Input<bool, 1>>& mask,
             const std::optional<Input<float, 1>>& lengths) {
    if (bands.empty()) throw std::invalid_argument("exact_best: at least one band is needed");
    Rows rows{{}, static_cast<std::int64_t>(bands[0].shape(0)), 0, nullptr, nullptr, nullptr};
    for (const BandArray& band : bands) {
        if (static_cast<std::int64_t>(band.shape(0)) != rows.count) {
            throw std::invalid_argument("exact_best: the bands differ in their number of rows");
        }
        const std::int64_t width = static_cast<std::int64_t>(band.shape(1));
        rows.bands.push_back({band.data(), width});
        rows.dim += width;
    }
    const std::size_t count = static_cast<std::size_t>(rows.count);
    if (mask) {
        if (mask->shape(0) != count) throw std::invalid_argument("exact_best: mask needs one value a row");
        rows.mask = mask->data();
    }
    if (lengths) {
        if (lengths->shape(0) != count) {
            throw std::invalid_argument("exact_best: lengths needs one value a row");
        }
        rows.lengths = lengths->data();
    }
    rows.dot = active_dot_f16();
    return rows;
}

void exact_best(const Input<float, 2>& queries, const std::vector<BandArray>& bands,
                const std::optional<Input<bool, 1>>& mask,
                const std::optional<Input<float, 1>>& lengths, std::int64_t threads,
                const Output<float>& scores, const Output<std::int64_t>& found) {
    const Rows rows = rows_of(bands, mask, lengths);
    const Queries batch{queries.data(), static_cast<std::int64_t>(queries.shape(0)), rows.dim};
    const std::int64_t k = static_cast<std::int64_t>(scores.shape(1));
    if (static_cast<std::int64_t>(queries.shape(1)) != rows.dim) {
        throw std::invalid_argument("exact_best: queries and bands differ in their number of dims");
    }
    if (scores.shape(0) != queries.shape(0) || found.shape(0) != queries.shape(0) ||
        found.shape(1) != scores.shape(1) || k < 1 || threads < 1) {
        throw std::invalid_argument("exact_best: scores and rows must be (queries, k), with k >= 1");
    }
    nb::gil_scoped_release release;
    scan(rows, batch, k, threads, scores.data(), found.data());
}

}  // namespace
}  // namespace adaptive_search

void bind_exact(nb::module_& m) {
    m.def("exact_best", &adaptive_search::exact_best, nb::arg("queries"), nb::arg("bands"),
          nb::arg("mask").none(), nb::arg("lengths").none(), nb::arg("threads"), nb::arg("scores"),
          nb::arg("rows"),
          "Write the best rows for each query; see adaptive_search.kernels.exact.exact_best.");
}
