#include "cascade.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

namespace adaptive_search {
namespace {

// How far the gather runs ahead. Eight rows of 3 KB keep the memory pipeline full; more of them
// push each other out of the first-level cache.
constexpr std::size_t kPrefetchRows = 8;

void prefetch(const SegmentRows& segment, int begin, int end, std::int64_t row) {
    for (int b = begin; b < end; ++b) {
        const Band& band = segment.bands[static_cast<std::size_t>(b)];
        const char* data =
            reinterpret_cast<const char*>(band.data + (row - segment.first) * band.width);
        for (std::int64_t at = 0; at < band.width * 2; at += 64) __builtin_prefetch(data + at);
    }
}

// Leaves the best `keep` partials, without those below `margin` of the k-th; unsorted.
void drop(std::vector<Partial>& partials, std::int64_t keep, std::int64_t k, float margin) {
    const auto better = [](const Partial& a, const Partial& b) { return is_better(a.hit, b.hit); };
    const auto at = [&](std::int64_t n) { return partials.begin() + n; };
    if (keep < static_cast<std::int64_t>(partials.size())) {
        std::nth_element(partials.begin(), at(keep), partials.end(), better);
        partials.resize(static_cast<std::size_t>(keep));
    }
    if (k >= static_cast<std::int64_t>(partials.size())) return;
    std::nth_element(partials.begin(), at(k - 1), partials.end(), better);
    const float least = at(k - 1)->hit.score - margin;
    const auto is_out = [&](const Partial& p) { return p.hit.score < least; };
    partials.erase(std::remove_if(at(k), partials.end(), is_out), partials.end());
}

}  // namespace

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

Cascade::Cascade(std::vector<SegmentRows> segments)
    : segments_(std::move(segments)), dot_(active_dot_f16()) {
    for (const SegmentRows& segment : segments_) {
        std::vector<ScatteredReads>& reads = reads_.emplace_back();
        const std::size_t rows = static_cast<std::size_t>(segment.count);
        for (const Band& band : segment.bands) {
            reads.emplace_back(band.data, rows * static_cast<std::size_t>(band.width) * 2);
        }
        for (const Lengths& lengths : segment.lengths) {
            reads.emplace_back(lengths.data, rows * static_cast<std::size_t>(lengths.stride) * 4);
        }
    }
}

std::size_t Cascade::segment_of(std::int64_t row) const {
    const auto after = std::upper_bound(
        segments_.begin(), segments_.end(), row,
        [](std::int64_t value, const SegmentRows& segment) { return value < segment.first; });
    return static_cast<std::size_t>(after - segments_.begin()) - 1;
}

// Has the system read the bands from begin to end of a row, and its length there.
void Cascade::ask(std::int64_t row, int begin, int end) const {
    const std::size_t at = segment_of(row);
    const SegmentRows& segment = segments_[at];
    const std::size_t local = static_cast<std::size_t>(row - segment.first);
    for (std::size_t b = static_cast<std::size_t>(begin); b < static_cast<std::size_t>(end); ++b) {
        const std::size_t bytes = static_cast<std::size_t>(segment.bands[b].width) * 2;
        reads_[at][b].ask(local * bytes, bytes);
    }
    if (segment.lengths.empty()) return;
    const std::size_t last = static_cast<std::size_t>(end) - 1;
    const std::size_t stride = static_cast<std::size_t>(segment.lengths[last].stride) * 4;
    reads_[at][segment.bands.size() + last].ask(local * stride, sizeof(float));
}

std::vector<Hit> Cascade::rank(const std::vector<std::int64_t>& candidates, const float* query,
                               const std::vector<Step>& steps, std::int64_t k,
                               CascadeSpace& space, int& taken, double* spent) const {
    std::vector<Partial>& partials = space.partials;
    partials.clear();
    for (const std::int64_t row : candidates) {
        partials.push_back({{0.0f, row}, static_cast<std::uint32_t>(partials.size())});
    }
    space.lanes.assign(candidates.size() * kLanes, 0.0f);
    int begin = 0;
    taken = 0;
    for (const Step& step : steps) {
        const double start = now();
        const auto prefetch_at = [&](std::size_t i) {
            const std::int64_t row = partials[i].hit.row;
            prefetch(segments_[segment_of(row)], begin, step.bands, row);
        };
        for (const Partial& partial : partials) ask(partial.hit.row, begin, step.bands);
        for (std::size_t i = 0; i < std::min(partials.size(), kPrefetchRows); ++i) prefetch_at(i);
        for (std::size_t i = 0; i < partials.size(); ++i) {
            if (i + kPrefetchRows < partials.size()) prefetch_at(i + kPrefetchRows);
            Partial& partial = partials[i];
            const SegmentRows& segment = segments_[segment_of(partial.hit.row)];
            const std::int64_t row = partial.hit.row - segment.first;
            float score = dot_(segment.bands.data() + begin, step.bands - begin, row, query,
                               space.lanes.data() + std::size_t{partial.lanes} * kLanes);
            if (!segment.lengths.empty()) {
                const Lengths& lengths = segment.lengths[static_cast<std::size_t>(step.bands) - 1];
                score /= lengths.data[row * lengths.stride];
            }
            partial.hit.score = comparable(score);
        }
        for (int b = begin; b < step.bands; ++b) {
            query += segments_.front().bands[static_cast<std::size_t>(b)].width;
        }
        begin = step.bands;
        ++taken;
        const bool last = taken == static_cast<int>(steps.size());
        drop(partials, last ? k : step.keep, k, step.margin);
        spent[taken - 1] += now() - start;
        const bool settled = static_cast<std::int64_t>(partials.size()) <= k;
        if (settled && step.margin < std::numeric_limits<float>::infinity()) break;
    }
    std::vector<Hit> hits;
    for (const Partial& partial : partials) hits.push_back(partial.hit);
    std::sort(hits.begin(), hits.end(), is_better);
    return hits;
}

}  // namespace adaptive_search
