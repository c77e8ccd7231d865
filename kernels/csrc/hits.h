// Rows with their scores, and the order that every search sorts them by.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace adaptive_search {

constexpr float kNoScore = -std::numeric_limits<float>::infinity();
constexpr std::int64_t kNoRow = -1;

struct Hit {
    float score;
    std::int64_t row;
};

// A total order, so that the best k do not depend on how the work is divided.
inline bool is_better(const Hit& a, const Hit& b) {
    return a.score > b.score || (a.score == b.score && a.row < b.row);
}

// A total order needs comparable scores: what is no number ranks behind everything.
inline float comparable(float score) { return std::isnan(score) ? kNoScore : score; }

}  // namespace adaptive_search
