// Arrays of Python as the search takes them.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "cascade.h"

namespace nb = nanobind;

namespace adaptive_search {

template <typename T, int Dims>
using Input = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
template <typename T, int Dims>
using Output = nb::ndarray<T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
using BandArray = Input<std::uint16_t, 2>;

inline void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("search: ") + what);
}

inline std::int64_t size_of(std::size_t n) { return static_cast<std::int64_t>(n); }

inline std::vector<SegmentRows> segments_of(const std::vector<std::vector<BandArray>>& bands) {
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

}  // namespace adaptive_search
