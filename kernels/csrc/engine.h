// The encoder's forward pass over packed texts of any lengths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "packed_linear.h"

namespace adaptive_search {

// Sizes of the model, under Mamba-2's names.
struct EngineConfig {
    std::size_t vocab_size, d_model, n_layers, d_inner, d_mlp, d_state, d_conv, headdim;
    float norm_eps;
    bool alternating;                      // odd blocks read right to left
    std::vector<std::size_t> band_widths;  // coordinates of each band
    std::vector<float> band_weights;       // length of each band
    std::size_t completed_bands;           // after kTrainedBands: maps of all bands as trained

    static constexpr std::size_t kTrainedBands = 2;

    std::size_t nheads() const { return d_inner / headdim; }
    bool is_completed(std::size_t band) const {
        return band >= kTrainedBands && band < kTrainedBands + completed_bands;
    }
    // Bands whose heads are needed for the first `bands`.
    std::size_t pooled_bands(std::size_t bands) const {
        return completed_bands > 0 && bands > kTrainedBands ? band_widths.size() : bands;
    }
};

// An array of the checkpoint, row-major; only matrices may be int8.
struct Tensor {
    WeightRows data;
    std::vector<std::size_t> shape;
};

using Tensors = std::map<std::string, Tensor>;

// Texts end to end: text i is ids[offsets[i]] up to ids[offsets[i + 1]].
struct Batch {
    const std::int32_t *ids;
    const std::int64_t *offsets;
    std::size_t texts;
    const std::int32_t *heads;  // active heads of each layer
    std::size_t bands;
};

// The weights give a vector that is zero or not finite; WeightsError in Python.
struct WeightsDamaged : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Carrier;
struct Carry;
struct Piece;
struct PoolState;
struct Profile;
struct TextState;
struct Tile;
struct Workspace;

class Engine {
  public:
    // Packs the weights; keeps only the embedding's pointers, which must stay valid.
    // Throws std::invalid_argument naming a tensor that is missing or has a wrong shape.
    Engine(const EngineConfig &config, const Tensors &tensors, Precision precision);
    ~Engine();

    // Writes (texts, sum of the first `bands` widths) to out. Tiles of texts run in parallel; the
    // result of a text depends neither on the others nor on the number of threads.
    // Throws WeightsDamaged. A profile is of one thread.
    void encode(const Batch &batch, int threads, float *out, Profile *profile = nullptr) const;

    // The heads alone: writes (count, dim) vectors of texts whose pooled state is the same for all
    // bands, states (count, d_model). Throws WeightsDamaged.
    void project(const float *states, std::size_t count, std::size_t bands, int threads,
                 float *out) const;

    const EngineConfig &config() const { return config_; }
    std::size_t dim(std::size_t bands) const;

  private:
    friend class Stream;

    struct Block {
        std::vector<float> mixer_norm, mlp_norm, gate_norm;
        std::vector<float> conv_weight;  // (d_conv, d_inner + 2 d_state)
        std::vector<float> conv_bias, dt_bias, A, D;
        PackedLinear z, x, BCdt, out, gate, up, down;
    };
    struct Memory;

    std::unique_ptr<Workspace> take_workspace(Profile *profile) const;
    void give_workspace(std::unique_ptr<Workspace> work) const;
    Block pack_block(const Tensors &tensors, std::size_t layer);
    void embed(const std::int32_t *ids, std::size_t rows, float *residual) const;
    void mix(std::size_t layer, float *rows, std::ptrdiff_t step, const Tile &tile,
             std::size_t heads, Carrier &carrier, Workspace &work) const;
    void mix_piece(const Block &block, std::size_t first, const Piece &piece, std::size_t heads,
                   Carry &carry, Workspace &work) const;
    void transform(const Block &block, float *rows, std::size_t n, std::size_t heads,
                   Workspace &work) const;
    void pool(const float *rows, const Piece &piece, std::size_t bands, PoolState &state,
              Workspace &work) const;
    void project(std::size_t texts, std::size_t bands, Workspace &work) const;
    void read_tile(const Tile &tile, const std::int32_t *heads, Carrier &carrier,
                   Workspace &work) const;
    std::size_t finish_tile(const Tile &tile, const float *rows, std::size_t bands,
                            Carrier &carrier, Workspace &work) const;
    void encode_causal(const Batch &batch, int threads, float *out, Profile *profile) const;
    void encode_alternating(const Batch &batch, int threads, float *out, Profile *profile) const;
    void encode_long(const Batch &batch, std::size_t text, int threads, float *out,
                     Profile *profile) const;
    void encode_unit(const Batch &batch, std::size_t first, std::size_t last, Workspace &work,
                     float *out) const;

    EngineConfig config_;
    const Ops *ops_;
    ScanFunction scan_;
    const Products *products_;  // of all linear layers but the pooling's queries
    const Products *floats_;    // of those
    WeightRows embedding_;
    Arena arena_;  // of the packed weights
    std::vector<Block> blocks_;
    std::vector<float> final_norm_;
    PackedLinear queries_;
    std::vector<PackedLinear> heads_, completion_;
    std::unique_ptr<Memory> memory_;
};

// A text that is read as it comes; the model must be causal. After any calls of append(),
// vector() equals the vector of all ids so far and the given end, bit for bit.
class Stream {
  public:
    Stream(const Engine &engine, std::vector<std::int32_t> heads);
    ~Stream();

    void append(const std::int32_t *ids, std::size_t count);
    // Writes engine.dim(bands) values; count must be at least 1.
    void vector(const std::int32_t *end, std::size_t count, std::size_t bands, float *out) const;

  private:
    void read(TextState &state, const std::int32_t *ids, const Piece &piece, std::size_t bands,
              Workspace &work) const;

    const Engine &engine_;
    std::vector<std::int32_t> heads_;
    std::unique_ptr<TextState> state_;       // of the whole tiles so far
    std::vector<std::int32_t> pending_;      // ids that do not fill a tile yet
    std::size_t read_ = 0;                   // ids in the state
};

}  // namespace adaptive_search
