#include "packed_linear.h"

#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "quantize.h"

namespace adaptive_search {
namespace {

// Puts row after row of cells where the panels want them.
template <class T>
class Packer {
  public:
    Packer(const Products &products, std::size_t inputs, unsigned char *panels)
        : panel_(products.panel),
          group_(products.group),
          inputs_(inputs),
          panels_(reinterpret_cast<T *>(panels)) {}

    template <class CellOf>
    void put(std::size_t output, CellOf cell_of) const {
        T *target = panels_ + output / panel_ * panel_ * round_up(inputs_, group_) +
                    output % panel_ * group_;
        for (std::size_t start = 0; start < inputs_; start += group_, target += panel_ * group_) {
            const std::size_t count = std::min(group_, inputs_ - start);
            for (std::size_t i = 0; i < count; ++i) target[i] = cell_of(start + i);
        }
    }

  private:
    std::size_t panel_, group_, inputs_;
    T *panels_;
};

template <class T, class Narrow>
void pack_floats(const Packer<T> &packer, const WeightRows &weight, std::size_t outputs,
                 std::size_t inputs, Narrow narrow) {
    for (std::size_t o = 0; o < outputs; ++o) {
        if (weight.values) {
            const float *values = weight.values + o * inputs;
            packer.put(o, [&](std::size_t i) { return narrow(values[i]); });
        } else {
            const std::int8_t *codes = weight.codes + o * inputs;
            const float scale = weight.scales[o];
            packer.put(o, [&](std::size_t i) { return narrow(scale * static_cast<float>(codes[i])); });
        }
    }
}

// Codes of the checkpoint go in as they are.
void pack_codes(const Packer<std::uint8_t> &packer, const WeightRows &weight, std::size_t outputs,
                std::size_t inputs, std::uint8_t offset, float *scales) {
    std::vector<std::int8_t> fresh(weight.codes ? 0 : inputs);
    for (std::size_t o = 0; o < outputs; ++o) {
        const std::int8_t *codes = weight.codes + o * inputs;
        if (weight.codes) {
            scales[o] = weight.scales[o];
        } else {
            scales[o] = quantize_row(weight.values + o * inputs, inputs, fresh.data());
            codes = fresh.data();
        }
        packer.put(o, [&](std::size_t i) { return static_cast<std::uint8_t>(codes[i] + offset); });
    }
}

std::size_t size_of(Cell cell) {
    switch (cell) {
        case Cell::f32: return 4;
        case Cell::bf16: return 2;
        default: return 1;
    }
}

}  // namespace

unsigned char *Arena::take(std::size_t bytes) {
    bytes = round_up(bytes, 64);
    if (bytes > left_) {
        left_ = round_up(std::max(bytes, kBlock), kPage);
        blocks_.emplace_back(
            static_cast<unsigned char *>(::operator new(left_, std::align_val_t{kPage})));
        next_ = blocks_.back().get();
#if defined(__linux__)
        madvise(next_, left_, MADV_HUGEPAGE);  // a wish: what comes of it makes no difference
#endif
    }
    unsigned char *taken = next_;
    next_ += bytes;
    left_ -= bytes;
    std::fill_n(taken, bytes, static_cast<unsigned char>(0));
    return taken;
}

PackedLinear::PackedLinear(const Products &products, Arena &arena, const WeightRows &weight,
                           std::size_t outputs, std::size_t inputs)
    : products_(&products),
      panel_size_(round_up(inputs, products.group) * products.panel),
      panels_(arena.take(round_up(outputs, products.panel) / products.panel * panel_size_ *
                         size_of(products.cell))) {
    switch (products.cell) {
        case Cell::f32: {
            const bool exact = products.precision == Precision::fp32;
            pack_floats(Packer<float>(products, inputs, panels_), weight, outputs, inputs,
                        [exact](float w) { return exact ? w : round_bf16(w); });
            break;
        }
        case Cell::bf16:
            pack_floats(Packer<std::uint16_t>(products, inputs, panels_), weight, outputs,
                        inputs, narrow_bf16);
            break;
        default:
            scales_ = Buffer(round_up(outputs, products.panel));
            pack_codes(Packer<std::uint8_t>(products, inputs, panels_), weight, outputs,
                       inputs, products.cell == Cell::u8 ? 128 : 0, scales_.data());
    }
}

void PackedLinear::apply(const Operand &a, std::size_t n, float *out, std::ptrdiff_t ldo,
                         bool accumulate) const {
    products_->multiply(a, panels_, panel_size_, scales_.data(), n, out, ldo, accumulate);
}

}  // namespace adaptive_search
