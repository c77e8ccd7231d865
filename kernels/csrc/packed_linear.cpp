#include "packed_linear.h"

#include <algorithm>

namespace adaptive_search {

Buffer::Buffer(std::size_t size)
    : data_(static_cast<float *>(::operator new(size * sizeof(float), kAlignment))), size_(size) {
    std::fill_n(data(), size, 0.0f);
}

PackedLinear::PackedLinear(const Ops &ops, const float *weight, std::size_t outputs,
                           std::size_t inputs)
    : ops_(&ops),
      panel_size_(inputs * ops.panel),
      panels_(round_up(outputs, ops.panel) * inputs) {
    for (std::size_t output = 0; output < outputs; ++output) {
        const float *source = weight + output * inputs;
        float *target = panels_.data() + output / ops.panel * panel_size_ + output % ops.panel;
        for (std::size_t input = 0; input < inputs; ++input) {
            target[input * ops.panel] = source[input];
        }
    }
}

void PackedLinear::apply(const float *a, std::ptrdiff_t lda, std::size_t m, std::size_t k,
                         std::size_t n, float *out, std::ptrdiff_t ldo, bool accumulate) const {
    ops_->linear_f32(a, lda, m, panels_.data(), panel_size_, k, n, out, ldo, accumulate);
}

}  // namespace adaptive_search
