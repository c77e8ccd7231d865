// What the compiler makes of short vectors without flags of its own.
#define ADAPTIVE_SEARCH_LANES 4
#define ADAPTIVE_SEARCH_TILE_ROWS 4
#include "simd_training_scan.h"

namespace adaptive_search {

template <class T>
const TrainingOps<T> &training_ops_reference() {
    return training_table<T>();
}

template const TrainingOps<float> &training_ops_reference();
template const TrainingOps<BFloat16> &training_ops_reference();

}  // namespace adaptive_search
