// What the engine keeps while it reads: tiles of texts, and what goes on from tile to tile.
#pragma once

#include <cstddef>
#include <vector>

#include "engine.h"
#include "engine_profile.h"
#include "packed_linear.h"

namespace adaptive_search {

// Rows that go through a layer together. Whole chunks of the scan, so that a long text is cut
// where its chunks end; whole row blocks of the products; and few enough for the activations to
// stay in the second-level cache.
constexpr std::size_t kTile = 96;
static_assert(kTile % kChunk == 0, "tiles must be whole chunks");

// Consecutive rows of one text.
struct Piece {
    std::size_t text;
    std::size_t start;  // position of the first row in its text, a multiple of kTile
    std::size_t rows;
    bool last;  // the text ends here

    bool fresh() const { return start == 0; }
    bool whole() const { return fresh() && last; }
};

// Pieces that stand in one array of rows.
struct Tile {
    std::size_t rows = 0;
    std::vector<Piece> pieces;
};

// What a mixer hands on from one piece of a text to the next.
struct Carry {
    Carry(const EngineConfig &c, std::size_t panel)
        : history((c.d_conv - 1) * (c.d_inner + 2 * c.d_state)),
          state(c.nheads() * c.d_state * round_up(c.headdim, panel)) {}
    void copy(const Carry &other);

    Buffer history;  // the convolution's inputs just before: x, then B and C
    Buffer state;    // of the scan
};

// The pooling of a text as far as it has been read.
struct PoolState {
    explicit PoolState(const EngineConfig &c)
        : peak(c.band_widths.size()),
          total(c.band_widths.size()),
          pooled(c.band_widths.size() * c.d_model) {}
    void clear();
    void copy(const PoolState &other);

    Buffer peak, total;  // (bands,)
    Buffer pooled;       // (bands, d_model)
};

// A text that has been read in part.
struct TextState {
    TextState(const EngineConfig &c, std::size_t panel)
        : layers(make_layers(c, panel)), pool(c), passed(c.n_layers + 1) {}
    void copy(const TextState &other);

    std::vector<Carry> layers;
    PoolState pool;
    std::vector<std::size_t> passed;  // pieces that each layer, and last the pooling, has read

  private:
    static std::vector<Carry> make_layers(const EngineConfig &c, std::size_t panel) {
        std::vector<Carry> layers;
        for (std::size_t i = 0; i < c.n_layers; ++i) layers.emplace_back(c, panel);
        return layers;
    }
};

// The memory of one thread, reused from tile to tile.
struct Workspace {
    Workspace(const EngineConfig &c, std::size_t panel);

    std::size_t BCdt_stride;
    Buffer residual;  // (rows of the tile or of all texts, d_model)
    Buffer operand, z, x, BCdt, scratch, logits, next_history;
    Carry carry;     // of texts that need none of their own
    PoolState pool;  // likewise
    Buffer pooled;   // (texts that end in a tile, bands, d_model)
    Buffer trained;  // (texts that end in a tile, dim of all bands), where some are completed
    Buffer vectors;  // (texts that end in a tile, dim)
    Profile *profile = nullptr;

    void end(Stage stage) {
        if (profile) profile->end(stage);
    }
};

// Where the pieces of a tile go on from.
class Carrier {
  public:
    virtual ~Carrier() = default;
    // Both wait until all earlier pieces of the text have passed.
    virtual Carry &carry(const Piece &piece, std::size_t layer) = 0;
    virtual PoolState &pool(const Piece &piece) = 0;
    // The piece has been through this layer, or through the pooling as layer n_layers.
    virtual void pass(const Piece &piece, std::size_t layer) = 0;
};

}  // namespace adaptive_search
