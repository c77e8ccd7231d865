// Each operation by itself, for parity tests; see kernels/native.py for shapes and meaning.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"
#include "packed_linear.h"
#include "quantize.h"

namespace nb = nanobind;

namespace adaptive_search {
namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
// Rows may lie apart or in reverse; the values of a row are neighbours.
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using Offsets = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

void require(bool holds, const char *what) {
    if (!holds) throw std::invalid_argument(what);
}

void check_rows(const Rows &x) {
    require(x.size() == 0 || x.shape(1) == 1 || x.stride(1) == 1, "the values of a row must be neighbours");
}

void check_offsets(const Offsets &offsets, std::size_t rows) {
    require(offsets.shape(0) > 0 && offsets(0) == 0, "offsets must start at 0");
    for (std::size_t i = 1; i < offsets.shape(0); ++i) {
        require(offsets(i) >= offsets(i - 1), "offsets must not fall");
    }
    require(static_cast<std::size_t>(offsets(offsets.shape(0) - 1)) == rows,
            "offsets must end at the number of rows");
}

std::ptrdiff_t stride(std::size_t n) { return static_cast<std::ptrdiff_t>(n); }

struct Matrix {
    Matrix(std::size_t rows, std::size_t columns)
        : rows(rows), columns(columns), values(new float[rows * columns]()) {}

    explicit Matrix(const Rows &source) : Matrix(source.shape(0), source.shape(1)) {
        check_rows(source);
        for (std::size_t i = 0; i < rows; ++i) {
            const float *from = source.data() + source.stride(0) * static_cast<std::ptrdiff_t>(i);
            for (std::size_t j = 0; j < columns; ++j) values[i * columns + j] = from[j];
        }
    }

    Result release() {
        float *data = values.release();
        const nb::capsule owner(data, [](void *p) noexcept { delete[] static_cast<float *>(p); });
        return Result(data, {rows, columns}, owner);
    }

    float *at(std::int64_t row) const { return values.get() + row * stride(); }
    std::ptrdiff_t stride() const { return static_cast<std::ptrdiff_t>(columns); }

    std::size_t rows, columns;
    std::unique_ptr<float[]> values;
};

Result linear(const Rows &x, const Rows &weight, const std::string &precision) {
    check_rows(x);
    require(x.shape(1) == weight.shape(1), "linear: x and weight differ in their columns");
    const Matrix dense(weight);
    const Products &products = active_products(precision_named(precision));
    Arena arena;
    const PackedLinear packed(products, arena, {dense.values.get()}, dense.rows, dense.columns);
    Matrix out(x.shape(0), dense.rows);
    const Buffer space(operand_space(out.rows, dense.columns));
    packed.apply(products.plain({x.data(), x.stride(0)}, out.rows, dense.columns, space.data()),
                 out.columns, out.values.get(), out.stride());
    return out.release();
}

Result causal_conv1d_silu(const Rows &x, const Rows &weight, const Vector &bias,
                          const Offsets &offsets) {
    check_rows(x);
    check_offsets(offsets, x.shape(0));
    const std::size_t channels = x.shape(1), d_conv = weight.shape(1);
    require(weight.shape(0) == channels && bias.shape(0) == channels,
            "causal_conv1d_silu: weight and bias need one row a channel");
    require(d_conv >= 1 && d_conv <= kMaxConv, "causal_conv1d_silu: d_conv must be in 1..16");
    const Matrix dense(weight);
    Matrix taps(d_conv, channels), out(x.shape(0), channels);
    for (std::size_t c = 0; c < channels; ++c) {
        for (std::size_t j = 0; j < d_conv; ++j) {
            taps.values[j * channels + c] = dense.values[c * d_conv + j];
        }
    }
    const Matrix history(d_conv - 1, channels);
    for (std::size_t i = 0; i + 1 < offsets.shape(0); ++i) {
        active_ops().causal_conv1d_silu_f32(
            x.data() + x.stride(0) * offsets(i), x.stride(0),
            static_cast<std::size_t>(offsets(i + 1) - offsets(i)), channels, taps.values.get(),
            taps.stride(), bias.data(), d_conv, history.values.get(), history.stride(),
            out.at(offsets(i)), out.stride());
    }
    return out.release();
}

Result softplus(const Rows &x, const Vector &bias) {
    require(bias.shape(0) == x.shape(1), "softplus: bias needs one value a column");
    Matrix out(x);
    active_ops().softplus_f32(out.values.get(), out.stride(), out.rows, out.columns, bias.data());
    return out.release();
}

Result ssd_scan(const Rows &x, const Rows &dt, const Vector &A, const Rows &B, const Rows &C,
                const Vector &D, const Offsets &offsets, const std::string &precision) {
    for (const Rows *rows : {&x, &dt, &B, &C}) {
        check_rows(*rows);
        require(rows->shape(0) == x.shape(0), "ssd_scan: x, dt, B and C differ in their rows");
    }
    check_offsets(offsets, x.shape(0));
    const std::size_t heads = dt.shape(1), d_state = B.shape(1);
    require(heads > 0 && x.shape(1) > 0 && x.shape(1) % heads == 0,
            "ssd_scan: the columns of dt must divide those of x");
    require(A.shape(0) == heads && D.shape(0) == heads, "ssd_scan: A and D need one value a head");
    require(C.shape(1) == d_state && (x.shape(0) < 2 || B.stride(0) == C.stride(0)),
            "ssd_scan: B and C must have the same shape and strides");
    const ScanFunction scan = active_scan(precision_named(precision));
    const std::size_t headdim = x.shape(1) / heads;
    const std::size_t padded = round_up(headdim, active_ops().panel);
    const Buffer scratch(scan_scratch(d_state, padded));
    Matrix y(x.shape(0), x.shape(1));
    for (std::size_t i = 0; i + 1 < offsets.shape(0); ++i) {
        const Buffer state(heads * d_state * padded);
        const std::int64_t at = offsets(i);
        scan({static_cast<std::size_t>(offsets(i + 1) - at), heads, headdim, d_state,
              x.data() + x.stride(0) * at, x.stride(0), dt.data() + dt.stride(0) * at,
              dt.stride(0), B.data() + B.stride(0) * at, C.data() + C.stride(0) * at, B.stride(0),
              A.data(), D.data(), state.data(), y.at(at), y.stride(), scratch.data()});
    }
    return y.release();
}

// What an operand's rows stand for.
Result read_operand(const Products &products, const Operand &rows) {
    Matrix out(rows.rows, rows.inputs);
    for (std::size_t t = 0; t < rows.rows; ++t) {
        for (std::size_t c = 0; c < rows.inputs; ++c) {
            const std::ptrdiff_t at = rows.stride * stride(t) + stride(c);
            float &value = out.values[t * out.columns + c];
            switch (products.cell) {
                case Cell::f32: value = static_cast<const float *>(rows.data)[at]; break;
                case Cell::bf16:
                    value = widen_bf16(static_cast<const std::uint16_t *>(rows.data)[at]);
                    break;
                default:
                    value = rows.scales[t] * static_cast<const std::int8_t *>(rows.data)[at];
            }
        }
    }
    return out.release();
}

Result rms_norm(const Rows &x, const Vector &weight, float eps, const std::string &precision) {
    check_rows(x);
    require(weight.shape(0) == x.shape(1), "rms_norm: weight needs one value a column");
    const Products &products = active_products(precision_named(precision));
    const Buffer space(operand_space(x.shape(0), x.shape(1)));
    return read_operand(products, products.norm({x.data(), x.stride(0), weight.data(), eps},
                                                x.shape(0), x.shape(1), space.data()));
}

Result gated_rms_norm(const Rows &y, const Rows &z, const Vector &weight, float eps,
                      const std::string &precision) {
    check_rows(z);
    require(y.shape(0) == z.shape(0) && y.shape(1) == z.shape(1),
            "gated_rms_norm: y and z differ in shape");
    require(weight.shape(0) == y.shape(1), "gated_rms_norm: weight needs one value a column");
    const Matrix copy(y);
    const Products &products = active_products(precision_named(precision));
    const Buffer space(operand_space(copy.rows, copy.columns));
    return read_operand(products, products.gated({copy.values.get(), copy.stride(), z.data(),
                                                  z.stride(0), weight.data(), eps},
                                                 copy.rows, copy.columns, space.data()));
}

Result swiglu(const Rows &gate, const Rows &up, const std::string &precision) {
    check_rows(up);
    require(gate.shape(0) == up.shape(0) && gate.shape(1) == up.shape(1),
            "swiglu: gate and up differ in shape");
    const Matrix copy(gate);
    const Products &products = active_products(precision_named(precision));
    const Buffer space(operand_space(copy.rows, copy.columns));
    return read_operand(products,
                        products.swiglu({copy.values.get(), copy.stride(), up.data(), up.stride(0)},
                                        copy.rows, copy.columns, space.data()));
}

// (texts, bands * d_model); chunk rows at a time, as the engine reads a long text.
Result softmax_pool(const Rows &h, const Rows &logits, const Offsets &offsets,
                    std::int64_t chunk) {
    check_rows(h);
    check_offsets(offsets, h.shape(0));
    require(logits.shape(0) == h.shape(0), "softmax_pool: h and logits differ in their rows");
    require(chunk >= 1, "softmax_pool: chunk must be at least 1");
    const std::size_t bands = logits.shape(1), d_model = h.shape(1);
    const Matrix weights(logits);
    Matrix out(offsets.shape(0) - 1, bands * d_model);
    for (std::size_t i = 0; i + 1 < offsets.shape(0); ++i) {
        std::vector<float> peak(bands, -std::numeric_limits<float>::infinity());
        std::vector<float> total(bands, 0.0f);
        float *pooled = out.at(static_cast<std::int64_t>(i));
        for (std::int64_t at = offsets(i); at < offsets(i + 1); at += chunk) {
            const std::int64_t rows = std::min(chunk, offsets(i + 1) - at);
            active_ops().softmax_pool_f32(h.data() + h.stride(0) * at, h.stride(0),
                                          static_cast<std::size_t>(rows), weights.at(at),
                                          weights.stride(),
                                          {bands, d_model, peak.data(), total.data(), pooled});
        }
        for (std::size_t b = 0; b < bands; ++b) {
            for (std::size_t c = 0; c < d_model; ++c) pooled[b * d_model + c] /= total[b];
        }
    }
    return out.release();
}

std::vector<std::string> level_names() {
    std::vector<std::string> names;
    for (Level level : supported_levels()) names.emplace_back(level_name(level));
    return names;
}

}  // namespace
}  // namespace adaptive_search

void bind_ops(nb::module_ &m) {
    using namespace adaptive_search;
    using namespace nb::literals;
    m.def("levels", &level_names);
    m.def("level", [] { return std::string(level_name(active_level())); });
    m.def("spin", [](const std::string &precision, std::size_t rounds) {
        return active_products(precision_named(precision)).spin(rounds) * rounds;
    }, "precision"_a, "rounds"_a);
    m.def("linear", &linear, "x"_a.noconvert(), "weight"_a.noconvert(), "precision"_a = "fp32");
    m.def("causal_conv1d_silu", &causal_conv1d_silu, "x"_a.noconvert(), "weight"_a.noconvert(),
          "bias"_a.noconvert(), "offsets"_a.noconvert());
    m.def("softplus", &softplus, "x"_a.noconvert(), "bias"_a.noconvert());
    m.def("ssd_scan", &ssd_scan, "x"_a.noconvert(), "dt"_a.noconvert(), "A"_a.noconvert(),
          "B"_a.noconvert(), "C"_a.noconvert(), "D"_a.noconvert(), "offsets"_a.noconvert(), "precision"_a = "fp32");
    m.def("rms_norm", &rms_norm, "x"_a.noconvert(), "weight"_a.noconvert(), "eps"_a,
          "precision"_a = "fp32");
    m.def("gated_rms_norm", &gated_rms_norm, "y"_a.noconvert(), "z"_a.noconvert(),
          "weight"_a.noconvert(), "eps"_a, "precision"_a = "fp32");
    m.def("swiglu", &swiglu, "gate"_a.noconvert(), "up"_a.noconvert(), "precision"_a = "fp32");
    m.def("softmax_pool", &softmax_pool, "h"_a.noconvert(), "logits"_a.noconvert(),
          "offsets"_a.noconvert(), "chunk"_a);
}
