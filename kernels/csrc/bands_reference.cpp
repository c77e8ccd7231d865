#include "bands_row.h"

namespace adaptive_search {

void split_row_reference(const float* vector, std::int64_t width, std::int64_t number, bool unit,
                         const std::vector<BandRows>& bands, double* squares) {
    split(vector, width, number, unit, bands, squares);
}

}  // namespace adaptive_search
