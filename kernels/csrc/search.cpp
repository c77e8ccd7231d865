// Search in nested vectors: lists, codes and cascade in one call for a batch of queries.
#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "cascade.h"
#include "object_pool.h"
#include "parallel.h"
#include "row_codes.h"

namespace adaptive_search {
namespace {

using LengthsArray = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu>;  // of any stride

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
                      const Input<float, 1>&, const Input<float, 1>&, std::int64_t, bool,
                      std::int64_t, const std::optional<Input<std::uint8_t, 1>>&,
                      const std::optional<Input<std::int64_t, 1>>&>(),
             nb::arg("bands"), nb::arg("order").none(), nb::arg("list_rows"), nb::arg("centre"),
             nb::arg("step"), nb::arg("bits"), nb::arg("unit"), nb::arg("threads"),
             nb::arg("kept").none(), nb::arg("kept_list_rows").none())
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
