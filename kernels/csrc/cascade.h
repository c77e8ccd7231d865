// Exact scores of candidates, from few dimensions to many.
#pragma once

#include <cstdint>
#include <vector>

#include "dot_f16.h"
#include "hits.h"
#include "paging.h"

namespace adaptive_search {

// A number for each row, `stride` numbers apart.
struct Lengths {
    const float* data;
    std::int64_t stride;
};

// The rows of one segment.
struct SegmentRows {
    std::int64_t first;  // its number in the whole index
    std::int64_t count;
    std::vector<Band> bands;
    std::vector<Lengths> lengths;  // of each prefix of bands; none if all rows have the same
};

// One step: score by the lowest `bands` bands, then keep the best `keep`, and of these only rows
// that score no more than `margin` below the last of the k best. With a finite margin, the steps end
// as soon as no more than k rows are left.
struct Step {
    int bands;
    std::int64_t keep;
    float margin;
};

// A candidate, and which lanes hold its sums so far.
struct Partial {
    Hit hit;
    std::uint32_t lanes;
};

// What one query works in, kept for the next: a shortlist of 5,000 has 0.6 MB of running sums, and
// memory that is fresh from the system costs more to touch than the sums cost to add.
struct CascadeSpace {
    std::vector<Partial> partials;
    std::vector<float> lanes;
};

class Cascade {
   public:
    explicit Cascade(std::vector<SegmentRows> segments);

    // The k best rows, best first, and how many steps were taken.
    // query: float32, as many dims as the last step has.
    // spent: seconds for each step, added to what is there.
    std::vector<Hit> rank(const std::vector<std::int64_t>& candidates, const float* query,
                          const std::vector<Step>& steps, std::int64_t k, CascadeSpace& space,
                          int& taken, double* spent) const;

    std::int64_t rows() const { return segments_.back().first + segments_.back().count; }

   private:
    std::size_t segment_of(std::int64_t row) const;
    void ask(std::int64_t row, int begin, int end) const;

    std::vector<SegmentRows> segments_;
    std::vector<std::vector<ScatteredReads>> reads_;  // of each band, then of the lengths
    DotF16 dot_;
};

// Seconds on a clock that never goes back.
double now();

}  // namespace adaptive_search
