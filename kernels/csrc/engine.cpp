// The weights: checked and packed.

#include <cmath>
#include <numeric>
#include <stdexcept>

#include "dispatch.h"
#include "engine.h"
#include "engine_memory.h"

namespace adaptive_search {
namespace {

std::string text_of(const std::vector<std::size_t> &shape) {
    std::string text = "(";
    for (std::size_t size : shape) text += std::to_string(size) + ",";
    return text + ")";
}

const WeightRows &take_rows(const Tensors &tensors, const std::string &name,
                            const std::vector<std::size_t> &shape) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw std::invalid_argument("tensor " + name + " is missing");
    if (found->second.shape != shape) {
        throw std::invalid_argument("tensor " + name + " has shape " +
                                    text_of(found->second.shape) + ", expected " +
                                    text_of(shape));
    }
    return found->second.data;
}

const float *take(const Tensors &tensors, const std::string &name,
                  const std::vector<std::size_t> &shape) {
    const float *values = take_rows(tensors, name, shape).values;
    if (values == nullptr) throw std::invalid_argument("tensor " + name + " must be float32");
    return values;
}

std::vector<float> take_vector(const Tensors &tensors, const std::string &name,
                               std::size_t size) {
    const float *data = take(tensors, name, {size});
    return {data, data + size};
}

// (channels, 1, d_conv) to (d_conv, channels), so that neighbours in memory are channels.
std::vector<float> transpose_conv(const float *weight, std::size_t channels, std::size_t d_conv) {
    std::vector<float> transposed(channels * d_conv);
    for (std::size_t c = 0; c < channels; ++c) {
        for (std::size_t j = 0; j < d_conv; ++j) {
            transposed[j * channels + c] = weight[c * d_conv + j];
        }
    }
    return transposed;
}

}  // namespace

Engine::Engine(const EngineConfig &config, const Tensors &tensors, Precision precision)
    : config_(config), ops_(&active_ops()), scan_(active_scan(precision)),
      products_(&active_products(precision)), floats_(&active_products(Precision::fp32)),
      memory_(std::make_unique<Memory>(config, ops_->panel)) {
    const std::size_t d = config.d_model, bands = config.band_widths.size();
    embedding_ = take_rows(tensors, "embedding.weight", {config.vocab_size, d});
    blocks_.reserve(config.n_layers);
    for (std::size_t i = 0; i < config.n_layers; ++i) blocks_.push_back(pack_block(tensors, i));
    final_norm_ = take_vector(tensors, "final_norm.weight", d);
    queries_ = {*floats_, arena_, {take(tensors, "pooling.query", {bands, d})},
                bands, d};
    for (std::size_t b = 0; b < bands; ++b) {
        const std::string name = "heads." + std::to_string(b) + ".weight";
        const std::size_t width = config.band_widths[b];
        heads_.emplace_back(*products_, arena_, take_rows(tensors, name, {width, d}), width, d);
    }
    for (std::size_t b = 0, whole = dim(bands); b < bands; ++b) {
        if (!config.is_completed(b)) continue;
        const std::string name = "completion." + std::to_string(b) + ".weight";
        const std::size_t width = config.band_widths[b];
        completion_.emplace_back(*products_, arena_, take_rows(tensors, name, {width, whole}),
                                 width, whole);
    }
}

Engine::Block Engine::pack_block(const Tensors &tensors, std::size_t layer) {
    const EngineConfig &c = config_;
    const std::size_t d = c.d_model, inner = c.d_inner, nheads = c.nheads();
    const std::size_t channels = inner + 2 * c.d_state, rest = 2 * c.d_state + nheads;
    const std::string at = "blocks." + std::to_string(layer) + ".", mixer = at + "mixer.";
    Block block;
    block.mixer_norm = take_vector(tensors, at + "mixer_norm.weight", d);
    block.mlp_norm = take_vector(tensors, at + "mlp_norm.weight", d);
    block.gate_norm = take_vector(tensors, mixer + "norm.weight", inner);
    block.conv_weight = transpose_conv(
        take(tensors, mixer + "conv1d.weight", {channels, 1, c.d_conv}), channels, c.d_conv);
    block.conv_bias = take_vector(tensors, mixer + "conv1d.bias", channels);
    block.dt_bias = take_vector(tensors, mixer + "dt_bias", nheads);
    block.dt_bias.resize(round_up(nheads, kPanelMost));
    block.A = take_vector(tensors, mixer + "A_log", nheads);
    for (float &a : block.A) a = -std::exp(a);
    block.D = take_vector(tensors, mixer + "D", nheads);

    // Rows of in_proj: z, x, then B, C and dt.
    const WeightRows &in = take_rows(tensors, mixer + "in_proj.weight", {2 * inner + rest, d});
    const WeightRows &gate_up = take_rows(tensors, at + "mlp.gate_up.weight", {2 * c.d_mlp, d});
    const Products &p = *products_;
    block.z = {p, arena_, in, inner, d};
    block.x = {p, arena_, in.from(inner, d), inner, d};
    block.BCdt = {p, arena_, in.from(2 * inner, d), rest, d};
    block.out = {p, arena_, take_rows(tensors, mixer + "out_proj.weight", {d, inner}), d, inner};
    block.gate = {p, arena_, gate_up, c.d_mlp, d};
    block.up = {p, arena_, gate_up.from(c.d_mlp, d), c.d_mlp, d};
    block.down = {p, arena_, take_rows(tensors, at + "mlp.down.weight", {d, c.d_mlp}), d, c.d_mlp};
    return block;
}

Engine::~Engine() = default;

std::size_t Engine::dim(std::size_t bands) const {
    const auto first = config_.band_widths.begin();
    return std::accumulate(first, first + static_cast<std::ptrdiff_t>(bands), std::size_t{0});
}

}  // namespace adaptive_search
