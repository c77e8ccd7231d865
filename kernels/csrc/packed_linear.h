// Memory and weights in the shape the operations want.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "ops.h"

namespace adaptive_search {

// Zeroed values, aligned to a cache line.
template <class T>
class Array {
  public:
    Array() = default;
    explicit Array(std::size_t size)
        : data_(static_cast<T *>(::operator new(size * sizeof(T), kAlignment))), size_(size) {
        std::fill_n(data(), size, T{});
    }
    // Makes room for this many, whose values are then zero; does nothing if there is room.
    void reserve(std::size_t size) {
        if (size_ < size) *this = Array(size);
    }
    T *data() const { return data_.get(); }
    std::size_t size() const { return size_; }

  private:
    static constexpr std::align_val_t kAlignment{64};
    struct Free {
        void operator()(T *p) const { ::operator delete(p, kAlignment); }
    };
    std::unique_ptr<T, Free> data_;
    std::size_t size_ = 0;
};

using Buffer = Array<float>;

// Memory for packed weights, end to end in the order of their use. It asks for large pages: a text
// reads all weights, and small pages would be looked up by the thousand.
class Arena {
  public:
    // Zeroed bytes from a cache line's start, which live as long as the arena.
    unsigned char *take(std::size_t bytes);

  private:
    static constexpr std::size_t kPage = std::size_t{2} << 20, kBlock = 2 * kPage;
    struct Free {
        void operator()(unsigned char *p) const { ::operator delete(p, std::align_val_t{kPage}); }
    };
    std::vector<std::unique_ptr<unsigned char, Free>> blocks_;
    unsigned char *next_ = nullptr;
    std::size_t left_ = 0;
};

// Rows of a weight matrix: float32, or int8 times the row's scale.
struct WeightRows {
    const float *values = nullptr;
    const std::int8_t *codes = nullptr;
    const float *scales = nullptr;

    WeightRows from(std::size_t row, std::size_t inputs) const {
        if (values) return {values + row * inputs, nullptr, nullptr};
        return {nullptr, codes + row * inputs, scales + row};
    }
};

// A weight matrix (outputs, inputs) cut into panels of Products::panel outputs, each stored
// input by input. Any number of first outputs and of first inputs is a valid slice, so the
// granularities share one packing.
class PackedLinear {
  public:
    PackedLinear() = default;
    // The arena must outlive it.
    PackedLinear(const Products &products, Arena &arena, const WeightRows &weight,
                 std::size_t outputs, std::size_t inputs);

    // out (a.rows, n) = or += a times the slice (n, a.inputs), transposed.
    void apply(const Operand &a, std::size_t n, float *out, std::ptrdiff_t ldo,
               bool accumulate = false) const;

  private:
    const Products *products_ = nullptr;
    std::size_t panel_size_ = 0;  // cells
    unsigned char *panels_ = nullptr;
    Buffer scales_;  // int8: of each packed row
};

}  // namespace adaptive_search
