// Python's way to the training operations: checks, threads, choice of level and type.
#include "training_ops.h"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "parallel.h"
#include "simd_level.h"

namespace nb = nanobind;

namespace adaptive_search {
namespace {

using Array = nb::ndarray<nb::device::cpu>;
using std::size_t;

// Rows that one task takes, at least; a cache line of channels in either type.
constexpr size_t kTaskRows = 64;
constexpr size_t kTaskChannels = 64;

template <class T>
const TrainingOps<T> &training_ops() {
    switch (active_level()) {
#if defined(__x86_64__) || defined(__i386__)
        case Level::avx512: return training_ops_avx512<T>();
        case Level::avx2: return training_ops_avx2<T>();
#elif defined(__aarch64__)
        case Level::neon: return training_ops_neon<T>();
#endif
        default: return training_ops_reference<T>();
    }
}

constexpr nb::dlpack::dtype of_code(nb::dlpack::dtype_code code, std::uint8_t bits) {
    return {static_cast<std::uint8_t>(code), bits, 1};
}
constexpr nb::dlpack::dtype kFloat32 = of_code(nb::dlpack::dtype_code::Float, 32);
constexpr nb::dlpack::dtype kBFloat16 = of_code(nb::dlpack::dtype_code::Bfloat, 16);

template <class T>
constexpr nb::dlpack::dtype kTypeOf = kFloat32;
template <>
constexpr nb::dlpack::dtype kTypeOf<BFloat16> = kBFloat16;

// Data of the given type and shape whose last axis is dense.
template <class T>
T *checked(const Array &array, const char *name, std::initializer_list<size_t> shape) {
    bool fits = array.ndim() == shape.size();
    for (size_t i = 0; fits && i < shape.size(); ++i) fits = array.shape(i) == shape.begin()[i];
    if (!fits) throw std::invalid_argument(std::string(name) + ": wrong shape");
    if (array.dtype() != kTypeOf<std::remove_const_t<T>>) {
        throw nb::type_error((std::string(name) + ": wrong dtype").c_str());
    }
    if (shape.size() > 0 && shape.end()[-1] > 1 && array.stride(shape.size() - 1) != 1) {
        throw std::invalid_argument(std::string(name) + ": the last axis must be dense");
    }
    return static_cast<T *>(array.data());
}

template <class T>
T *dense(const Array &array, const char *name, std::initializer_list<size_t> shape) {
    T *data = checked<T>(array, name, shape);
    std::int64_t stride = 1;
    for (size_t i = shape.size(); i-- > 0; stride *= static_cast<std::int64_t>(array.shape(i))) {
        if (array.shape(i) > 1 && array.stride(i) != stride) {
            throw std::invalid_argument(std::string(name) + ": must be contiguous");
        }
    }
    return data;
}

template <class T>
Sequences<T> sequences(const Array &array, const char *name, size_t batch, size_t seqlen,
                       size_t width) {
    T *data = checked<T>(array, name, {batch, seqlen, width});
    return {data, array.stride(0), array.stride(1)};
}

template <class T>
Rows2d<T> rows_of(const Array &array, const char *name, size_t rows, size_t width) {
    T *data = checked<T>(array, name, {rows, width});
    return {data, array.stride(0)};
}

void require_ndim(const Array &array, const char *name, size_t ndim) {
    if (array.ndim() != ndim) {
        throw std::invalid_argument(std::string(name) + ": must have " + std::to_string(ndim) +
                                    " axes");
    }
}

// Calls run with a value of the element type of the array, free of the interpreter lock.
template <class Run>
void with_type(const Array &array, const char *name, Run run) {
    nb::gil_scoped_release release;
    if (array.dtype() == kFloat32) return run(float{});
    if (array.dtype() == kBFloat16) return run(BFloat16{});
    throw nb::type_error((std::string(name) + ": must be float32 or bfloat16").c_str());
}

// The rows in as many equal parts as dweight (parts, width) has rows, each with its own sum.
template <class Task>
void run_parts(size_t rows, const Array &dweight, size_t width, const Task &task) {
    require_ndim(dweight, "dweight", 2);
    const size_t parts = dweight.shape(0);
    float *sums = dense<float>(dweight, "dweight", {parts, width});
    run_tasks(parts, parts, [&](size_t part, size_t worker) {
        float *sum = sums + part * width;
        std::fill(sum, sum + width, 0.0f);
        task(rows * part / parts, rows * (part + 1) / parts, sum, worker);
    });
}

template <class T>
Conv<T> convolution(const Array &x, const Array &weight, const Array &bias) {
    Conv<T> a{};
    a.batch = x.shape(0), a.seqlen = x.shape(1), a.channels = x.shape(2);
    a.x = sequences<const T>(x, "x", a.batch, a.seqlen, a.channels);
    a.weight = dense<const float>(weight, "weight", {kTaps, a.channels});
    a.bias = dense<const float>(bias, "bias", {a.channels});
    return a;
}

void conv_forward(const Array &x, const Array &weight, const Array &bias, const Array &y,
                  size_t threads) {
    require_ndim(x, "x", 3);
    with_type(x, "x", [&](auto type) {
        using T = decltype(type);
        Conv<T> a = convolution<T>(x, weight, bias);
        a.y = sequences<T>(y, "y", a.batch, a.seqlen, a.channels);
        const auto run = training_ops<T>().conv_forward;
        run_ranges(a.channels, kTaskChannels, threads,
                   [&](size_t begin, size_t end, size_t) { run(a, begin, end); });
    });
}

void conv_backward(const Array &x, const Array &weight, const Array &bias, const Array &dy,
                   const Array &dx, const Array &dweight, const Array &dbias, size_t threads) {
    require_ndim(x, "x", 3);
    with_type(x, "x", [&](auto type) {
        using T = decltype(type);
        Conv<T> a = convolution<T>(x, weight, bias);
        a.dy = sequences<const T>(dy, "dy", a.batch, a.seqlen, a.channels);
        a.dx = sequences<T>(dx, "dx", a.batch, a.seqlen, a.channels);
        a.dweight = dense<float>(dweight, "dweight", {kTaps, a.channels});
        a.dbias = dense<float>(dbias, "dbias", {a.channels});
        const auto run = training_ops<T>().conv_backward;
        run_ranges(a.channels, kTaskChannels, threads,
                   [&](size_t begin, size_t end, size_t) { run(a, begin, end); });
    });
}

template <class T>
Norm<T> norm(const Array &x, const Array &weight, float eps) {
    Norm<T> a{};
    a.width = x.shape(1), a.eps = eps;
    a.x = rows_of<const float>(x, "x", x.shape(0), a.width);
    a.weight = dense<const float>(weight, "weight", {a.width});
    return a;
}

void norm_forward(const Array &x, const Array &weight, float eps, const Array &out,
                  size_t threads) {
    require_ndim(x, "x", 2);
    with_type(out, "out", [&](auto type) {
        using T = decltype(type);
        Norm<T> a = norm<T>(x, weight, eps);
        a.out = rows_of<T>(out, "out", x.shape(0), a.width);
        const auto run = training_ops<T>().norm_forward;
        run_ranges(x.shape(0), kTaskRows, threads,
                   [&](size_t begin, size_t end, size_t) { run(a, begin, end); });
    });
}

void norm_backward(const Array &x, const Array &weight, float eps, const Array &dout,
                   const Array &dx, const Array &dweight) {
    require_ndim(x, "x", 2);
    with_type(dout, "dout", [&](auto type) {
        using T = decltype(type);
        Norm<T> a = norm<T>(x, weight, eps);
        a.dout = rows_of<const T>(dout, "dout", x.shape(0), a.width);
        a.dx = rows_of<float>(dx, "dx", x.shape(0), a.width);
        const auto run = training_ops<T>().norm_backward;
        run_parts(x.shape(0), dweight, a.width,
                  [&](size_t begin, size_t end, float *sum, size_t) { run(a, begin, end, sum); });
    });
}

template <class T>
GatedNorm<T> gated_norm(const Array &y, const Array &z, const Array &weight, float eps) {
    GatedNorm<T> a{};
    a.width = y.shape(1), a.eps = eps;
    a.y = rows_of<const T>(y, "y", y.shape(0), a.width);
    a.z = rows_of<const T>(z, "z", y.shape(0), a.width);
    a.weight = dense<const float>(weight, "weight", {a.width});
    return a;
}

void gated_norm_forward(const Array &y, const Array &z, const Array &weight, float eps,
                        const Array &out, size_t threads) {
    require_ndim(y, "y", 2);
    with_type(y, "y", [&](auto type) {
        using T = decltype(type);
        GatedNorm<T> a = gated_norm<T>(y, z, weight, eps);
        a.out = rows_of<T>(out, "out", y.shape(0), a.width);
        const auto run = training_ops<T>().gated_norm_forward;
        const Scratch scratch(threads, a.width);
        run_ranges(y.shape(0), kTaskRows, threads, [&](size_t begin, size_t end, size_t worker) {
            run(a, begin, end, scratch.of(worker));
        });
    });
}

void gated_norm_backward(const Array &y, const Array &z, const Array &weight, float eps,
                         const Array &dout, const Array &dy, const Array &dz,
                         const Array &dweight) {
    require_ndim(y, "y", 2);
    with_type(y, "y", [&](auto type) {
        using T = decltype(type);
        GatedNorm<T> a = gated_norm<T>(y, z, weight, eps);
        a.dout = rows_of<const T>(dout, "dout", y.shape(0), a.width);
        a.dy = rows_of<T>(dy, "dy", y.shape(0), a.width);
        a.dz = rows_of<T>(dz, "dz", y.shape(0), a.width);
        const auto run = training_ops<T>().gated_norm_backward;
        const Scratch scratch(dweight.shape(0), a.width);
        run_parts(y.shape(0), dweight, a.width,
                  [&](size_t begin, size_t end, float *sum, size_t worker) {
                      run(a, begin, end, sum, scratch.of(worker));
                  });
    });
}

template <class T>
Swiglu<T> swiglu(const Array &gate_up) {
    Swiglu<T> a{};
    a.width = gate_up.shape(1) / 2;
    a.gate_up = rows_of<const T>(gate_up, "gate_up", gate_up.shape(0), 2 * a.width);
    return a;
}

void swiglu_forward(const Array &gate_up, const Array &out, size_t threads) {
    require_ndim(gate_up, "gate_up", 2);
    with_type(gate_up, "gate_up", [&](auto type) {
        using T = decltype(type);
        Swiglu<T> a = swiglu<T>(gate_up);
        a.out = rows_of<T>(out, "out", gate_up.shape(0), a.width);
        const auto run = training_ops<T>().swiglu_forward;
        run_ranges(gate_up.shape(0), kTaskRows, threads,
                   [&](size_t begin, size_t end, size_t) { run(a, begin, end); });
    });
}

void swiglu_backward(const Array &gate_up, const Array &dout, const Array &dgate_up,
                     size_t threads) {
    require_ndim(gate_up, "gate_up", 2);
    with_type(gate_up, "gate_up", [&](auto type) {
        using T = decltype(type);
        Swiglu<T> a = swiglu<T>(gate_up);
        a.dout = rows_of<const T>(dout, "dout", gate_up.shape(0), a.width);
        a.dgate_up = rows_of<T>(dgate_up, "dgate_up", gate_up.shape(0), 2 * a.width);
        const auto run = training_ops<T>().swiglu_backward;
        run_ranges(gate_up.shape(0), kTaskRows, threads,
                   [&](size_t begin, size_t end, size_t) { run(a, begin, end); });
    });
}

template <class T>
ScanArguments<T> scan(const Array &x, const Array &dt, const Array &A, const Array &B,
                      const Array &C, const Array &D, size_t groups) {
    ScanArguments<T> a{};
    const size_t batch = x.shape(0);
    a.seqlen = x.shape(1), a.nheads = A.size(), a.d_state = B.shape(2);
    if (a.nheads == 0) throw std::invalid_argument("A: at least one head is needed");
    if (groups == 0) throw std::invalid_argument("groups: must be at least 1");
    a.headdim = x.shape(2) / a.nheads;
    a.x = sequences<const T>(x, "x", batch, a.seqlen, a.nheads * a.headdim);
    a.B = sequences<const T>(B, "B", batch, a.seqlen, a.d_state);
    a.C = sequences<const T>(C, "C", batch, a.seqlen, a.d_state);
    a.dt = sequences<const float>(dt, "dt", batch, a.seqlen, a.nheads);
    a.A = dense<const float>(A, "A", {a.nheads});
    a.D = dense<const float>(D, "D", {a.nheads});
    return a;
}

// Every sequence in `groups` runs of heads.
template <class Task>
void run_heads(size_t batch, size_t groups, size_t nheads, size_t threads, const Scratch &scratch,
               const Task &task) {
    run_tasks(batch * groups, threads, [&](size_t i, size_t worker) {
        const size_t group = i % groups;
        const size_t first = nheads * group / groups, last = nheads * (group + 1) / groups;
        task(ScanPart{i / groups, first, last, scratch.of(worker)}, group);
    });
}

void scan_forward(const Array &x, const Array &dt, const Array &A, const Array &B, const Array &C,
                  const Array &D, const Array &y, size_t groups, size_t threads) {
    require_ndim(x, "x", 3);
    require_ndim(B, "B", 3);
    with_type(x, "x", [&](auto type) {
        using T = decltype(type);
        ScanArguments<T> a = scan<T>(x, dt, A, B, C, D, groups);
        a.y = sequences<T>(y, "y", x.shape(0), a.seqlen, a.nheads * a.headdim);
        const TrainingOps<T> &ops = training_ops<T>();
        const size_t heads = (a.nheads + groups - 1) / groups;
        const Scratch scratch(threads, ops.scan_forward_scratch(a, heads));
        run_heads(x.shape(0), groups, a.nheads, threads, scratch,
                  [&](const ScanPart &part, size_t) { ops.scan_forward(a, part); });
    });
}

// dB and dC: (groups, batch, seqlen, d_state), the parts of each run of heads.
void scan_backward(const Array &x, const Array &dt, const Array &A, const Array &B, const Array &C,
                   const Array &D, const Array &dy, const Array &dx, const Array &ddt,
                   const Array &dA, const Array &dB, const Array &dC, const Array &dD,
                   size_t threads) {
    require_ndim(x, "x", 3);
    require_ndim(B, "B", 3);
    require_ndim(dB, "dB", 4);
    with_type(x, "x", [&](auto type) {
        using T = decltype(type);
        const size_t groups = dB.shape(0);
        ScanArguments<T> a = scan<T>(x, dt, A, B, C, D, groups);
        const size_t batch = x.shape(0), width = a.nheads * a.headdim;
        a.dy = sequences<const T>(dy, "dy", batch, a.seqlen, width);
        a.dx = sequences<T>(dx, "dx", batch, a.seqlen, width);
        a.ddt = sequences<float>(ddt, "ddt", batch, a.seqlen, a.nheads);
        a.dA = dense<float>(dA, "dA", {batch, a.nheads});
        a.dD = dense<float>(dD, "dD", {batch, a.nheads});
        float *dBs = dense<float>(dB, "dB", {groups, batch, a.seqlen, a.d_state});
        float *dCs = dense<float>(dC, "dC", {groups, batch, a.seqlen, a.d_state});
        const ptrdiff_t row = static_cast<ptrdiff_t>(a.d_state);
        const ptrdiff_t sequence = row * static_cast<ptrdiff_t>(a.seqlen);
        const TrainingOps<T> &ops = training_ops<T>();
        const Scratch scratch(threads, ops.scan_backward_scratch(a));
        const auto task = [&](const ScanPart &part, size_t group) {
            const ptrdiff_t offset = sequence * static_cast<ptrdiff_t>(group * batch);
            ScanArguments<T> own = a;
            own.dB = {dBs + offset, sequence, row};
            own.dC = {dCs + offset, sequence, row};
            ops.scan_backward(own, part);
        };
        run_heads(batch, groups, a.nheads, threads, scratch, task);
    });
}

}  // namespace
}  // namespace adaptive_search

void bind_training(nb::module_ &m) {
    namespace as = adaptive_search;
    nb::module_ t = m.def_submodule("training", "See adaptive_search.kernels.training_ops.");
    t.def("conv_forward", &as::conv_forward);
    t.def("conv_backward", &as::conv_backward);
    t.def("norm_forward", &as::norm_forward);
    t.def("norm_backward", &as::norm_backward);
    t.def("gated_norm_forward", &as::gated_norm_forward);
    t.def("gated_norm_backward", &as::gated_norm_backward);
    t.def("swiglu_forward", &as::swiglu_forward);
    t.def("swiglu_backward", &as::swiglu_backward);
    t.def("scan_forward", &as::scan_forward);
    t.def("scan_backward", &as::scan_backward);
}
