#include "engine.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "dispatch.h"

namespace adaptive_search {
namespace {

// Tokens that go through a layer together. Whole chunks of the scan, so that a long text is cut
// where its chunks end; whole row blocks of the products; and few enough for the activations to
// stay in the second-level cache.
constexpr std::size_t kTile = 96;
static_assert(kTile % kChunk == 0, "tiles must be whole chunks");

// Tokens that go through all layers together, unless one text has more: while they do, a layer's
// weights are read from memory only once.
constexpr std::size_t kUnit = 512;

std::ptrdiff_t stride(std::size_t n) { return static_cast<std::ptrdiff_t>(n); }

// Long decays end in denormal numbers, which cost a hundred cycles each on some CPUs.
class FlushDenormals {
  public:
#if defined(__SSE2__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#endif
};

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

// Consecutive texts [first, last) that go through the layers together.
using Unit = std::pair<std::size_t, std::size_t>;

// Units as large as reuses a layer's weights well, yet enough of them for every thread.
std::vector<Unit> group_texts(const Batch &batch, int threads) {
    const auto all = static_cast<std::size_t>(batch.offsets[batch.texts]);
    const std::size_t share = all / static_cast<std::size_t>(2 * threads);
    const std::size_t limit = std::clamp(share, kTile, kUnit);
    std::vector<Unit> units;
    std::size_t tokens = limit + 1;
    for (std::size_t i = 0; i < batch.texts; ++i) {
        const auto length = static_cast<std::size_t>(batch.offsets[i + 1] - batch.offsets[i]);
        tokens += length;
        if (tokens > limit) {
            units.emplace_back(i, i);
            tokens = length;
        }
        ++units.back().second;
    }
    return units;
}

}  // namespace

// Consecutive rows of one text in a tile.
struct Piece {
    std::size_t rows;
    bool fresh;  // the text begins here; otherwise it goes on from the tile before
};

struct Tile {
    std::size_t rows = 0;
    std::vector<Piece> pieces;
};

namespace {

// Texts are cut at multiples of kTile of their own positions, never where the tile happens to be
// full, so that a text is computed alike whatever stands before it.
std::vector<Tile> cut_tiles(const std::vector<std::size_t> &lengths) {
    std::vector<Tile> tiles(1);
    for (std::size_t length : lengths) {
        for (std::size_t start = 0; start < length; start += kTile) {
            const std::size_t rows = std::min(kTile, length - start);
            if (tiles.back().rows + rows > kTile) tiles.emplace_back();
            tiles.back().rows += rows;
            tiles.back().pieces.push_back({rows, start == 0});
        }
    }
    return tiles;
}

}  // namespace

// The memory of one thread, reused from layer to layer and from unit to unit.
struct Workspace {
    Workspace(const EngineConfig &c, std::size_t panel)
        : conv_channels(c.d_inner + 2 * c.d_state),
          BCdt_stride(round_up(2 * c.d_state + c.nheads(), 16)),
          state_size(c.d_state * round_up(c.headdim, panel)),
          normed(kTile * c.d_model),
          operand(operand_space(kTile, std::max({c.d_model, c.d_inner, c.d_mlp}))),
          z(kTile * std::max(c.d_inner, c.d_mlp)),
          x(kTile * std::max(c.d_inner, c.d_mlp)),
          BCdt(kTile * BCdt_stride),
          history((c.d_conv - 1) * conv_channels),
          next_history((c.d_conv - 1) * conv_channels),
          state(c.nheads() * state_size),
          scratch(scan_scratch(c.d_state, round_up(c.headdim, panel))),
          logits(kTile * c.band_widths.size()),
          softmax(2 * c.band_widths.size()) {}

    std::size_t conv_channels, BCdt_stride, state_size;
    Buffer residual;  // (tokens of the unit, d_model)
    Buffer normed, operand, z, x, BCdt;
    Buffer history, next_history;  // the conv's inputs just before the tile: x, then B and C
    Buffer state, scratch, logits;
    Buffer softmax;  // peak and total of each band
    Buffer pooled;   // (texts of the unit, bands, d_model)
};

Engine::Engine(const EngineConfig &config, const Tensors &tensors, Precision precision)
    : config_(config), ops_(&active_ops()), products_(&active_products(precision)) {
    const std::size_t d = config.d_model, bands = config.band_widths.size();
    embedding_ = take_rows(tensors, "embedding.weight", {config.vocab_size, d});
    blocks_.reserve(config.n_layers);
    for (std::size_t i = 0; i < config.n_layers; ++i) blocks_.push_back(pack_block(tensors, i));
    final_norm_ = take_vector(tensors, "final_norm.weight", d);
    queries_ = {active_products(Precision::fp32), {take(tensors, "pooling.query", {bands, d})},
                bands, d};
    for (std::size_t b = 0; b < bands; ++b) {
        const std::size_t width = config.band_widths[b];
        const std::string name = "heads." + std::to_string(b) + ".weight";
        heads_.emplace_back(*products_, take_rows(tensors, name, {width, d}), width, d);
    }
}

Engine::Block Engine::pack_block(const Tensors &tensors, std::size_t layer) const {
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
    block.A = take_vector(tensors, mixer + "A_log", nheads);
    for (float &a : block.A) a = -std::exp(a);
    block.D = take_vector(tensors, mixer + "D", nheads);

    // Rows of in_proj: z, x, then B, C and dt.
    const WeightRows &in = take_rows(tensors, mixer + "in_proj.weight", {2 * inner + rest, d});
    const WeightRows &gate_up = take_rows(tensors, at + "mlp.gate_up.weight", {2 * c.d_mlp, d});
    const Products &p = *products_;
    block.z = {p, in, inner, d};
    block.x = {p, in.from(inner, d), inner, d};
    block.BCdt = {p, in.from(2 * inner, d), rest, d};
    block.out = {p, take_rows(tensors, mixer + "out_proj.weight", {d, inner}), d, inner};
    block.gate = {p, gate_up, c.d_mlp, d};
    block.up = {p, gate_up.from(c.d_mlp, d), c.d_mlp, d};
    block.down = {p, take_rows(tensors, at + "mlp.down.weight", {d, c.d_mlp}), d, c.d_mlp};
    return block;
}

void Engine::embed(const std::int32_t *ids, std::size_t rows, float *residual) const {
    const std::size_t d = config_.d_model;
    for (std::size_t t = 0; t < rows; ++t, residual += d) {
        const auto id = static_cast<std::size_t>(ids[t]);
        if (embedding_.values) {
            std::copy_n(embedding_.values + id * d, d, residual);
            continue;
        }
        const std::int8_t *codes = embedding_.codes + id * d;
        const float scale = embedding_.scales[id];
        for (std::size_t c = 0; c < d; ++c) residual[c] = scale * static_cast<float>(codes[c]);
    }
}

// residual += the MatMamba2 mixer of the texts, in reading order or from right to left.
void Engine::mix(const Block &block, bool reversed, const std::vector<Tile> &tiles,
                 std::size_t rows, std::size_t heads, Workspace &work) const {
    const EngineConfig &c = config_;
    const std::size_t d = c.d_model, inner = heads * c.headdim;
    const std::ptrdiff_t step = reversed ? -stride(d) : stride(d);
    float *rows_at = work.residual.data() + (reversed ? (rows - 1) * d : 0);
    float *normed = work.normed.data(), *x = work.x.data(), *z = work.z.data();
    for (const Tile &tile : tiles) {
        const std::size_t n = tile.rows;
        ops_->rms_norm_f32(rows_at, step, n, d, block.mixer_norm.data(), c.norm_eps, normed,
                           stride(d));
        const Operand in = products_->convert(normed, stride(d), n, d, work.operand.data());
        block.z.apply(in, inner, z, stride(inner));
        block.x.apply(in, inner, x, stride(inner));
        block.BCdt.apply(in, 2 * c.d_state + heads, work.BCdt.data(), stride(work.BCdt_stride));
        std::size_t first = 0;
        for (const Piece &piece : tile.pieces) {
            mix_piece(block, first, piece, heads, work);
            first += piece.rows;
        }
        ops_->gated_rms_norm_f32(x, stride(inner), z, stride(inner), n, inner,
                                 block.gate_norm.data(), c.norm_eps);
        const Operand y = products_->convert(x, stride(inner), n, inner, work.operand.data());
        block.out.apply(y, d, rows_at, step, true);
        rows_at += step * stride(n);
    }
}

namespace {

// The last rows of history followed by x, as the history of the next tile.
void remember(const float *history, const float *x, std::ptrdiff_t ldx, std::size_t rows,
              std::size_t channels, std::size_t before, std::size_t width, float *next) {
    for (std::size_t j = 0; j < before; ++j) {
        const std::size_t source = rows + j;
        const float *from = source < before ? history + source * width
                                            : x + ldx * stride(source - before);
        std::copy_n(from, channels, next + j * width);
    }
}

}  // namespace

// Convolution and scan of the piece whose first row in the tile is given. x becomes y.
void Engine::mix_piece(const Block &block, std::size_t first, const Piece &piece,
                       std::size_t heads, Workspace &work) const {
    const EngineConfig &c = config_;
    const std::size_t rows = piece.rows;
    const std::size_t inner = heads * c.headdim, width = work.conv_channels;
    const std::size_t before = c.d_conv - 1;
    const std::ptrdiff_t ldx = stride(inner), ldb = stride(work.BCdt_stride);
    float *x = work.x.data() + first * inner;
    float *B = work.BCdt.data() + first * work.BCdt_stride;
    float *dt = B + 2 * c.d_state;
    if (piece.fresh) {
        std::fill_n(work.history.data(), work.history.size(), 0.0f);
        std::fill_n(work.state.data(), heads * work.state_size, 0.0f);
    }
    const float *history = work.history.data();
    float *next = work.next_history.data();
    remember(history, x, ldx, rows, inner, before, width, next);
    remember(history + c.d_inner, B, ldb, rows, 2 * c.d_state, before, width, next + c.d_inner);
    const float *weight = block.conv_weight.data(), *bias = block.conv_bias.data();
    ops_->causal_conv1d_silu_f32(x, ldx, rows, inner, weight, stride(width), bias, c.d_conv,
                                 history, stride(width), x, ldx);
    ops_->causal_conv1d_silu_f32(B, ldb, rows, 2 * c.d_state, weight + c.d_inner, stride(width),
                                 bias + c.d_inner, c.d_conv, history + c.d_inner, stride(width),
                                 B, ldb);
    std::swap(work.history, work.next_history);
    ops_->softplus_f32(dt, ldb, rows, heads, block.dt_bias.data());
    ops_->ssd_scan_f32({rows, heads, c.headdim, c.d_state, x, ldx, dt, ldb, B, B + c.d_state, ldb,
                        block.A.data(), block.D.data(), work.state.data(), x, ldx,
                        work.scratch.data()});
}

// residual += the swish-gated MLP.
void Engine::transform(const Block &block, std::size_t rows, std::size_t heads,
                       Workspace &work) const {
    const std::size_t d = config_.d_model, width = config_.d_mlp * heads / config_.nheads();
    float *normed = work.normed.data(), *gate = work.z.data(), *up = work.x.data();
    for (std::size_t start = 0; start < rows; start += kTile) {
        const std::size_t n = std::min(kTile, rows - start);
        float *tile = work.residual.data() + start * d;
        ops_->rms_norm_f32(tile, stride(d), n, d, block.mlp_norm.data(), config_.norm_eps, normed,
                           stride(d));
        const Operand in = products_->convert(normed, stride(d), n, d, work.operand.data());
        block.gate.apply(in, width, gate, stride(width));
        block.up.apply(in, width, up, stride(width));
        ops_->swiglu_f32(gate, stride(width), up, stride(width), n, width);
        const Operand gated =
            products_->convert(gate, stride(width), n, width, work.operand.data());
        block.down.apply(gated, d, tile, stride(d), true);
    }
}

// The softmax-weighted mean of every text's final states, for each band.
void Engine::pool(const std::vector<std::size_t> &lengths, std::size_t bands,
                  Workspace &work) const {
    const std::size_t d = config_.d_model;
    const float *residual = work.residual.data();
    float *pooled = work.pooled.data(), *peak = work.softmax.data(), *total = peak + bands;
    for (std::size_t length : lengths) {
        std::fill_n(pooled, bands * d, 0.0f);
        std::fill_n(peak, bands, -std::numeric_limits<float>::infinity());
        std::fill_n(total, bands, 0.0f);
        for (std::size_t start = 0; start < length; start += kTile) {
            const std::size_t n = std::min(kTile, length - start);
            ops_->rms_norm_f32(residual, stride(d), n, d, final_norm_.data(), config_.norm_eps,
                               work.normed.data(), stride(d));
            const Operand states{n, d, work.normed.data(), stride(d), nullptr, nullptr};
            queries_.apply(states, bands, work.logits.data(), stride(bands));
            ops_->softmax_pool_f32(work.normed.data(), stride(d), n, work.logits.data(),
                                   stride(bands), {bands, d, peak, total, pooled});
            residual += n * d;
        }
        for (std::size_t b = 0; b < bands; ++b, pooled += d) {
            for (std::size_t c = 0; c < d; ++c) pooled[c] /= total[b];
        }
    }
}

// Each band's head, scaled to the band's fixed length.
void Engine::project(std::size_t texts, std::size_t bands, Workspace &work, float *out) const {
    const std::size_t d = config_.d_model;
    const auto &widths = config_.band_widths;
    const std::size_t dim = std::accumulate(widths.begin(), widths.begin() + stride(bands),
                                            std::size_t{0});
    for (std::size_t b = 0; b < bands; out += widths[b++]) {
        for (std::size_t i = 0; i < texts; i += kTile) {
            const Operand pooled = products_->convert(
                work.pooled.data() + (i * bands + b) * d, stride(bands * d),
                std::min(kTile, texts - i), d, work.operand.data());
            heads_[b].apply(pooled, widths[b], out + i * dim, stride(dim));
        }
        for (std::size_t i = 0; i < texts; ++i) {
            float *band = out + i * dim;
            double squares = 0.0;
            for (std::size_t c = 0; c < widths[b]; ++c) squares += double{band[c]} * band[c];
            if (!std::isfinite(squares)) {
                throw std::invalid_argument(
                    "the weights give a vector that is not finite; they are damaged");
            }
            const auto scale =
                static_cast<float>(config_.band_weights[b] / std::max(std::sqrt(squares), 1e-12));
            for (std::size_t c = 0; c < widths[b]; ++c) band[c] *= scale;
        }
    }
}

void Engine::encode_unit(const Batch &batch, std::size_t first, std::size_t last, Workspace &work,
                         float *out) const {
    const std::size_t d = config_.d_model, texts = last - first;
    std::vector<std::size_t> lengths;
    for (std::size_t i = first; i < last; ++i) {
        lengths.push_back(static_cast<std::size_t>(batch.offsets[i + 1] - batch.offsets[i]));
    }
    const auto rows = static_cast<std::size_t>(batch.offsets[last] - batch.offsets[first]);
    if (work.residual.size() < rows * d) work.residual = Buffer(std::max(rows, kTile) * d);
    if (work.pooled.size() < texts * batch.bands * d) {
        work.pooled = Buffer(texts * batch.bands * d);
    }
    embed(batch.ids + batch.offsets[first], rows, work.residual.data());
    // Read backwards, the texts are the last one reversed, then the one before, and so on.
    const std::vector<Tile> forwards = cut_tiles(lengths);
    const std::vector<Tile> backwards = cut_tiles({lengths.rbegin(), lengths.rend()});
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
        const auto heads = static_cast<std::size_t>(batch.heads[i]);
        const bool reversed = config_.alternating && i % 2 == 1;
        mix(blocks_[i], reversed, reversed ? backwards : forwards, rows, heads, work);
        transform(blocks_[i], rows, heads, work);
    }
    pool(lengths, batch.bands, work);
    project(texts, batch.bands, work, out);
}

void Engine::encode(const Batch &batch, int threads, float *out) const {
    const std::vector<Unit> units = group_texts(batch, threads);
    const auto &widths = config_.band_widths;
    const std::size_t dim = std::accumulate(widths.begin(), widths.begin() + stride(batch.bands),
                                            std::size_t{0});
    const auto count = stride(units.size());
    const int team = static_cast<int>(std::clamp<std::ptrdiff_t>(count, 1, threads));
    std::exception_ptr failure;  // an exception must not leave a parallel region
#pragma omp parallel num_threads(team) if (team > 1)
    {
        const FlushDenormals guard;
        std::unique_ptr<Workspace> work;
#pragma omp for schedule(dynamic)
        for (std::ptrdiff_t i = 0; i < count; ++i) {
            try {
                if (!work) work = std::make_unique<Workspace>(config_, ops_->panel);
                const Unit unit = units[static_cast<std::size_t>(i)];
                encode_unit(batch, unit.first, unit.second, *work, out + unit.first * dim);
            } catch (...) {
#pragma omp critical
                failure = std::current_exception();
            }
        }
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace adaptive_search
