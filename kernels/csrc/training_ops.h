// The encoder's element-wise operations and scan with their gradients, for training.
//
// Activations are float32 or bfloat16 (T), parameters and sums float32. Each operation
// is one structure of arguments; forward and backward each read their part of it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace adaptive_search {

struct BFloat16 {
    std::uint16_t bits;
};

// (batch, seqlen, width) with a dense last axis; strides in elements.
template <class T>
struct Sequences {
    T *data;
    std::ptrdiff_t batch_stride, row_stride;
};

// (rows, width) with a dense last axis.
template <class T>
struct Rows2d {
    T *data;
    std::ptrdiff_t stride;
};

// Taps of the convolution; shorter ones start with zeros.
constexpr std::size_t kTaps = 4;

template <class T>
struct Conv {
    std::size_t batch, seqlen, channels;
    const float *weight;  // (kTaps, channels)
    const float *bias;    // (channels,)
    Sequences<const T> x;
    Sequences<T> y;
    Sequences<const T> dy;
    Sequences<T> dx;
    float *dweight, *dbias;  // shaped like weight and bias
};

// rms_norm(x, weight, eps); x is the float32 residual stream.
template <class T>
struct Norm {
    std::size_t width;
    const float *weight;
    float eps;
    Rows2d<const float> x;
    Rows2d<T> out;
    Rows2d<const T> dout;
    Rows2d<float> dx;
};

// rms_norm(y * silu(z), weight, eps).
template <class T>
struct GatedNorm {
    std::size_t width;
    const float *weight;
    float eps;
    Rows2d<const T> y, z;
    Rows2d<T> out;
    Rows2d<const T> dout;
    Rows2d<T> dy, dz;
};

// silu(gate) * up, where a row of gate_up is gate, then up.
template <class T>
struct Swiglu {
    std::size_t width;
    Rows2d<const T> gate_up;
    Rows2d<T> out;
    Rows2d<const T> dout;
    Rows2d<T> dgate_up;
};

// The Mamba-2 recurrence with one group; x, y: (batch, seqlen, nheads * headdim).
template <class T>
struct ScanArguments {
    std::size_t seqlen, nheads, headdim, d_state;
    Sequences<const T> x, B, C;
    Sequences<const float> dt;
    const float *A, *D;
    Sequences<T> y;
    Sequences<const T> dy;
    Sequences<T> dx;
    Sequences<float> ddt, dB, dC;
    float *dA, *dD;  // (batch, nheads)
};

// Work of one scan: heads [first, last) of one sequence, with scratch_floats() of scratch.
// dB and dC are of these heads alone.
struct ScanPart {
    std::size_t sequence, first, last;
    float *scratch;
};

// Every function handles [begin, end) of its channels or rows, or one ScanPart.
template <class T>
struct TrainingOps {
    void (*conv_forward)(const Conv<T> &, std::size_t begin, std::size_t end);
    void (*conv_backward)(const Conv<T> &, std::size_t begin, std::size_t end);
    void (*norm_forward)(const Norm<T> &, std::size_t begin, std::size_t end);
    // Adds to dweight (width,).
    void (*norm_backward)(const Norm<T> &, std::size_t begin, std::size_t end, float *dweight);
    void (*gated_norm_forward)(const GatedNorm<T> &, std::size_t begin, std::size_t end,
                               float *scratch);
    // Adds to dweight (width,); scratch (width,).
    void (*gated_norm_backward)(const GatedNorm<T> &, std::size_t begin, std::size_t end,
                                float *dweight, float *scratch);
    void (*swiglu_forward)(const Swiglu<T> &, std::size_t begin, std::size_t end);
    void (*swiglu_backward)(const Swiglu<T> &, std::size_t begin, std::size_t end);
    std::size_t (*scan_forward_scratch)(const ScanArguments<T> &, std::size_t heads);
    void (*scan_forward)(const ScanArguments<T> &, const ScanPart &);
    std::size_t (*scan_backward_scratch)(const ScanArguments<T> &);
    void (*scan_backward)(const ScanArguments<T> &, const ScanPart &);
};

template <class T>
const TrainingOps<T> &training_ops_reference();
template <class T>
const TrainingOps<T> &training_ops_avx2();
template <class T>
const TrainingOps<T> &training_ops_avx512();
template <class T>
const TrainingOps<T> &training_ops_neon();

}  // namespace adaptive_search
