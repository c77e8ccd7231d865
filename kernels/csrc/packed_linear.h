// Memory and weights in the shape the operations want.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "ops.h"

namespace adaptive_search {

// Zeroed floats, aligned to a cache line.
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(std::size_t size);
    float *data() const { return data_.get(); }
    std::size_t size() const { return size_; }

  private:
    static constexpr std::align_val_t kAlignment{64};
    struct Free {
        void operator()(float *p) const { ::operator delete(p, kAlignment); }
    };
    std::unique_ptr<float, Free> data_;
    std::size_t size_ = 0;
};

// A weight matrix (outputs, inputs) cut into panels of Ops::panel outputs, each stored
// input by input. Any number of first outputs and of first inputs is a valid slice, so the
// granularities share one packing. The float32 mode; another numeric mode is another class
// with the same apply().
class PackedLinear {
  public:
    PackedLinear() = default;
    PackedLinear(const Ops &ops, const float *weight, std::size_t outputs, std::size_t inputs);

    // out (m, n) = or += a (m, k) times the slice (n, k), transposed.
    void apply(const float *a, std::ptrdiff_t lda, std::size_t m, std::size_t k, std::size_t n,
               float *out, std::ptrdiff_t ldo, bool accumulate = false) const;

  private:
    const Ops *ops_ = nullptr;
    std::size_t panel_size_ = 0;
    Buffer panels_;
};

}  // namespace adaptive_search
