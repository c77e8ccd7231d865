// One tile through the layers, the pooling and the heads.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "engine.h"
#include "engine_state.h"

namespace adaptive_search {
namespace {

// Rows of the embedding asked of memory before they are needed.
constexpr std::size_t kAhead = 4;
// Squared length of a band that no sound weights give; float32 cannot hold what scales it to 1.
constexpr double kTooLong = 1e60;

std::ptrdiff_t stride(std::size_t n) { return static_cast<std::ptrdiff_t>(n); }

// Most that a head reads.
std::size_t head_inputs(const EngineConfig &c) {
    std::size_t whole = 0;
    for (const std::size_t width : c.band_widths) whole += width;
    return std::max(c.d_model, c.completed_bands > 0 ? whole : 0);
}

// Scales rows of n values, `stride` apart, to one length.
void set_lengths(float *rows, std::size_t count, std::size_t n, std::size_t stride, float length) {
    for (std::size_t i = 0; i < count; ++i) {
        float *row = rows + i * stride;
        double squares = 0.0;
        for (std::size_t c = 0; c < n; ++c) squares += double{row[c]} * row[c];
        if (!(squares > 0.0 && squares < kTooLong)) {
            throw WeightsDamaged(
                "the weights give a vector that is zero, not finite or far too long; they are damaged");
        }
        const auto scale = static_cast<float>(length / std::sqrt(squares));
        for (std::size_t c = 0; c < n; ++c) row[c] *= scale;
    }
}

}  // namespace

void Carry::copy(const Carry &other) {
    std::copy_n(other.history.data(), history.size(), history.data());
    std::copy_n(other.state.data(), state.size(), state.data());
}

void PoolState::clear() {
    std::fill_n(peak.data(), peak.size(), -std::numeric_limits<float>::infinity());
    std::fill_n(total.data(), total.size(), 0.0f);
    std::fill_n(pooled.data(), pooled.size(), 0.0f);
}

void PoolState::copy(const PoolState &other) {
    std::copy_n(other.peak.data(), peak.size(), peak.data());
    std::copy_n(other.total.data(), total.size(), total.data());
    std::copy_n(other.pooled.data(), pooled.size(), pooled.data());
}

void TextState::copy(const TextState &other) {
    for (std::size_t i = 0; i < layers.size(); ++i) layers[i].copy(other.layers[i]);
    pool.copy(other.pool);
}

Workspace::Workspace(const EngineConfig &c, std::size_t panel)
    : BCdt_stride(round_up(2 * c.d_state + round_up(c.nheads(), kPanelMost), kPanelMost)),
      residual(kTile * c.d_model),
      operand(operand_space(kTile, std::max({head_inputs(c), c.d_inner, c.d_mlp}))),
      z(kTile * std::max(c.d_inner, c.d_mlp)),
      x(kTile * std::max(c.d_inner, c.d_mlp)),
      BCdt(kTile * BCdt_stride),
      scratch(scan_scratch(c.d_state, round_up(c.headdim, panel))),
      logits(kTile * c.band_widths.size()),
      next_history((c.d_conv - 1) * (c.d_inner + 2 * c.d_state)),
      carry(c, panel),
      pool(c) {}

void Engine::embed(const std::int32_t *ids, std::size_t rows, float *residual) const {
    const std::size_t d = config_.d_model;
    for (std::size_t t = 0; t < rows; ++t, residual += d) {
        const auto id = static_cast<std::size_t>(ids[t]);
        if (embedding_.values) {
            std::copy_n(embedding_.values + id * d, d, residual);
            continue;
        }
        const std::int8_t *codes = embedding_.codes + id * d;
        const auto ahead = static_cast<std::size_t>(ids[std::min(t + kAhead, rows - 1)]);
        for (std::size_t c = 0; c < d; c += 64) __builtin_prefetch(embedding_.codes + ahead * d + c);
        const float scale = embedding_.scales[id];
        for (std::size_t c = 0; c < d; ++c) residual[c] = scale * static_cast<float>(codes[c]);
    }
}

// rows += the MatMamba2 mixer of the tile, whose rows are `step` apart.
void Engine::mix(std::size_t layer, float *rows, std::ptrdiff_t step, const Tile &tile,
                 std::size_t heads, Carrier &carrier, Workspace &work) const {
    const EngineConfig &c = config_;
    const Block &block = blocks_[layer];
    const std::size_t n = tile.rows, d = c.d_model, inner = heads * c.headdim;
    float *space = work.operand.data(), *x = work.x.data(), *z = work.z.data();
    const Operand in =
        products_->norm({rows, step, block.mixer_norm.data(), c.norm_eps}, n, d, space);
    work.end(Stage::norm);
    block.z.apply(in, inner, z, stride(inner));
    block.x.apply(in, inner, x, stride(inner));
    // Whole panels, because a part of one takes longer.
    block.BCdt.apply(in, round_up(2 * c.d_state + heads, products_->panel), work.BCdt.data(),
                     stride(work.BCdt_stride));
    work.end(Stage::in_proj);
    std::size_t first = 0;
    for (const Piece &piece : tile.pieces) {
        mix_piece(block, first, piece, heads, carrier.carry(piece, layer), work);
        carrier.pass(piece, layer);
        first += piece.rows;
    }
    const Operand y = products_->gated(
        {x, stride(inner), z, stride(inner), block.gate_norm.data(), c.norm_eps}, n, inner, space);
    work.end(Stage::gated_norm);
    block.out.apply(y, d, rows, step, true);
    work.end(Stage::out_proj);
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
                       std::size_t heads, Carry &carry, Workspace &work) const {
    const EngineConfig &c = config_;
    const std::size_t rows = piece.rows;
    const std::size_t inner = heads * c.headdim, width = c.d_inner + 2 * c.d_state;
    const std::size_t before = c.d_conv - 1;
    const std::ptrdiff_t ldx = stride(inner), ldb = stride(work.BCdt_stride);
    float *x = work.x.data() + first * inner;
    float *B = work.BCdt.data() + first * work.BCdt_stride;
    float *dt = B + 2 * c.d_state;
    if (piece.fresh()) std::fill_n(carry.history.data(), carry.history.size(), 0.0f);
    const float *history = carry.history.data();
    float *next = work.next_history.data();
    remember(history, x, ldx, rows, inner, before, width, next);
    remember(history + c.d_inner, B, ldb, rows, 2 * c.d_state, before, width, next + c.d_inner);
    const float *weight = block.conv_weight.data(), *bias = block.conv_bias.data();
    ops_->causal_conv1d_silu_f32(x, ldx, rows, inner, weight, stride(width), bias, c.d_conv,
                                 history, stride(width), x, ldx);
    ops_->causal_conv1d_silu_f32(B, ldb, rows, 2 * c.d_state, weight + c.d_inner, stride(width),
                                 bias + c.d_inner, c.d_conv, history + c.d_inner, stride(width),
                                 B, ldb);
    std::swap(carry.history, work.next_history);
    work.end(Stage::convolution);
    ops_->softplus_f32(dt, ldb, rows, round_up(heads, kPanelMost / 2), block.dt_bias.data());
    work.end(Stage::softplus);
    scan_({rows, heads, c.headdim, c.d_state, x, ldx, dt, ldb, B, B + c.d_state, ldb,
           block.A.data(), block.D.data(), carry.state.data(), x, ldx, work.scratch.data(),
           piece.fresh(), piece.last});
    work.end(Stage::scan);
}

// rows += the swish-gated MLP.
void Engine::transform(const Block &block, float *rows, std::size_t n, std::size_t heads,
                       Workspace &work) const {
    const std::size_t d = config_.d_model, width = config_.d_mlp * heads / config_.nheads();
    float *space = work.operand.data(), *gate = work.z.data(), *up = work.x.data();
    const Operand in = products_->norm({rows, stride(d), block.mlp_norm.data(), config_.norm_eps},
                                       n, d, space);
    work.end(Stage::norm);
    block.gate.apply(in, width, gate, stride(width));
    block.up.apply(in, width, up, stride(width));
    work.end(Stage::gate_up);
    const Operand gated =
        products_->swiglu({gate, stride(width), up, stride(width)}, n, width, space);
    work.end(Stage::swiglu);
    block.down.apply(gated, d, rows, stride(d), true);
    work.end(Stage::down);
}

// Adds a piece's final states to the softmax-weighted sum of each band.
void Engine::pool(const float *rows, const Piece &piece, std::size_t bands, PoolState &state,
                  Workspace &work) const {
    const std::size_t d = config_.d_model;
    if (piece.fresh()) state.clear();
    const Operand states = floats_->norm(
        {rows, stride(d), final_norm_.data(), config_.norm_eps}, piece.rows, d, work.operand.data());
    queries_.apply(states, bands, work.logits.data(), stride(bands));
    ops_->softmax_pool_f32(static_cast<const float *>(states.data), states.stride, piece.rows,
                           work.logits.data(), stride(bands),
                           {bands, d, state.peak.data(), state.total.data(), state.pooled.data()});
}

// work.vectors = each band's head of work.pooled, scaled to the band's fixed length; a completed
// band is a map of all bands so made, of length 1.
void Engine::project(std::size_t texts, std::size_t bands, Workspace &work) const {
    const std::size_t d = config_.d_model, width = dim(bands);
    const std::size_t pooled = config_.pooled_bands(bands), whole = dim(pooled);
    const bool completes = config_.completed_bands > 0 && bands > EngineConfig::kTrainedBands;
    work.vectors.reserve(texts * width);
    if (completes) work.trained.reserve(texts * whole);
    float *out = completes ? work.trained.data() : work.vectors.data();
    for (std::size_t b = 0; b < pooled; out += config_.band_widths[b++]) {
        const Operand state = products_->plain({work.pooled.data() + b * d, stride(pooled * d)},
                                               texts, d, work.operand.data());
        const std::size_t n = config_.band_widths[b];
        heads_[b].apply(state, n, out, stride(whole));
        set_lengths(out, texts, n, whole, completes ? 1.0f : config_.band_weights[b]);
    }
    if (!completes) return;
    const float *trained = work.trained.data();
    const Operand all =
        products_->plain({trained, stride(whole)}, texts, whole, work.operand.data());
    out = work.vectors.data();
    for (std::size_t b = 0; b < bands; b++) {
        const std::size_t n = config_.band_widths[b];
        if (config_.is_completed(b)) {
            completion_[b - EngineConfig::kTrainedBands].apply(all, n, out, stride(width));
        } else {
            for (std::size_t i = 0; i < texts; ++i) {
                std::copy_n(trained + i * whole, n, out + i * width);
            }
        }
        set_lengths(out, texts, n, width, config_.band_weights[b]);
        out += n;
        trained += n;
    }
}

// work.residual, which holds the embedded tile, through all layers.
void Engine::read_tile(const Tile &tile, const std::int32_t *heads, Carrier &carrier,
                       Workspace &work) const {
    float *rows = work.residual.data();
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
        const auto active = static_cast<std::size_t>(heads[i]);
        mix(i, rows, stride(config_.d_model), tile, active, carrier, work);
        transform(blocks_[i], rows, tile.rows, active, work);
    }
}

// Pools the tile's final states; returns how many texts end in it, with work.vectors theirs.
std::size_t Engine::finish_tile(const Tile &tile, const float *rows, std::size_t bands,
                                Carrier &carrier, Workspace &work) const {
    const std::size_t d = config_.d_model, pooled = config_.pooled_bands(bands);
    std::size_t texts = 0;
    work.pooled.reserve(tile.pieces.size() * pooled * d);
    for (const Piece &piece : tile.pieces) {
        PoolState &state = carrier.pool(piece);
        pool(rows, piece, pooled, state, work);
        rows += piece.rows * d;
        if (piece.last) {
            float *mean = work.pooled.data() + texts++ * pooled * d;
            for (std::size_t i = 0; i < pooled * d; ++i) {
                mean[i] = state.pooled.data()[i] / state.total.data()[i / d];
            }
        }
        carrier.pass(piece, config_.n_layers);
    }
    work.end(Stage::pooling);
    project(texts, bands, work);
    work.end(Stage::heads);
    return texts;
}

}  // namespace adaptive_search
