// The walk over the bands of a row, for the levels of dot_f16.h.
#pragma once

#include "dot_f16.h"

namespace adaptive_search {

// Sums has `void add(const std::uint16_t* x, const float* query)`, which adds 32 products to its
// lanes. What a band has past a multiple of 32 is added with zeros behind it.
template <class Sums>
inline void add_bands(Sums& sums, const Band* bands, int nbands, std::int64_t row,
                      const float* query) {
    for (int b = 0; b < nbands; ++b) {
        const std::int64_t width = bands[b].width;
        const std::uint16_t* x = bands[b].data + row * width;
        std::int64_t j = 0;
        for (; j + kLanes <= width; j += kLanes) sums.add(x + j, query + j);
        if (j < width) {
            std::uint16_t x_tail[kLanes] = {};
            float q_tail[kLanes] = {};
            for (std::int64_t i = j; i < width; ++i) {
                x_tail[i - j] = x[i];
                q_tail[i - j] = query[i];
            }
            sums.add(x_tail, q_tail);
        }
        query += width;
    }
}

}  // namespace adaptive_search
