#include "bands.h"

#include <stdexcept>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace adaptive_search {
namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Band = nb::ndarray<std::uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Squares = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void split_bands(const Matrix& vectors, bool unit, const std::vector<Band>& bands,
                 const Squares& squares) {
    const std::size_t rows = vectors.shape(0);
    std::vector<BandRows> parts;
    std::size_t width = 0;
    for (const Band& band : bands) {
        if (band.shape(0) != rows) throw std::invalid_argument("split_bands: rows differ");
        parts.push_back({band.data(), static_cast<std::int64_t>(band.shape(1))});
        width += band.shape(1);
    }
    if (width != vectors.shape(1) || squares.shape(0) != rows || squares.shape(1) != parts.size()) {
        throw std::invalid_argument("split_bands: the bands do not make up the vectors");
    }
    nb::gil_scoped_release release;
    const SplitRow split_row = active_split_row();
    for (std::size_t r = 0; r < rows; ++r) {
        split_row(vectors.data() + r * width, static_cast<std::int64_t>(width),
                  static_cast<std::int64_t>(r), unit, parts, squares.data() + r * parts.size());
    }
}

}  // namespace
}  // namespace adaptive_search

void bind_bands(nb::module_& m) {
    m.def("split_bands", &adaptive_search::split_bands, nb::arg("vectors"), nb::arg("unit"),
          nb::arg("bands"), nb::arg("squares"),
          "Write vectors as float16 bands; see adaptive_search.kernels.bands.split_bands.");
}
