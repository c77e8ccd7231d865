// 256-bit registers, of which there are 16.
#define ADAPTIVE_SEARCH_LANES 8
#define ADAPTIVE_SEARCH_TILE_ROWS 6
#include "simd_training_scan.h"

namespace adaptive_search {

template <class T>
const TrainingOps<T> &training_ops_avx2() {
    return training_table<T>();
}

template const TrainingOps<float> &training_ops_avx2();
template const TrainingOps<BFloat16> &training_ops_avx2();

}  // namespace adaptive_search
