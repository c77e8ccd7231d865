// The table of one instruction level, from the functions included before.
#pragma once

#include "training_ops.h"

namespace adaptive_search {
namespace {

template <class T>
const TrainingOps<T> &training_table() {
    static constexpr TrainingOps<T> ops{
        conv_forward<T>,          conv_backward<T>,       norm_forward<T>,
        norm_backward<T>,         gated_norm_forward<T>,  gated_norm_backward<T>,
        swiglu_forward<T>,        swiglu_backward<T>,     scan_forward_scratch<T>,
        scan_forward<T>,          scan_backward_scratch<T>, scan_backward<T>};
    return ops;
}

}  // namespace
}  // namespace adaptive_search
