// Batches and streams: which rows are read together, by which thread, and after which.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <stdexcept>
#include <utility>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "engine.h"
#include "engine_memory.h"
#include "parallel.h"

namespace adaptive_search {
namespace {

// Tokens of the texts that go through the layers together where layers alternate in direction; a
// longer text goes by itself.
constexpr std::size_t kUnit = 5 * kTile;

// Texts read in part that a tile of ends may hold; each holds a state of a megabyte until then.
constexpr std::size_t kOpenTexts = 8;

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

std::size_t length_of(const Batch &batch, std::size_t text) {
    return static_cast<std::size_t>(batch.offsets[text + 1] - batch.offsets[text]);
}

// The texts' whole tiles, each by itself, and their ends together as they fit. Texts are cut at
// multiples of kTile of their own positions, so that a text is computed alike whatever others
// there are; and a text's pieces stay in order.
std::vector<Tile> cut_texts(const Batch &batch) {
    std::vector<Tile> tiles;
    Tile ends;
    std::size_t open = 0;
    const auto flush = [&] {
        if (ends.rows > 0) tiles.push_back(std::move(ends));
        ends = Tile();
        open = 0;
    };
    for (std::size_t i = 0; i < batch.texts; ++i) {
        const std::size_t length = length_of(batch, i);
        std::size_t start = 0;
        for (; length - start >= kTile; start += kTile) {
            tiles.push_back({kTile, {{i, start, kTile, start + kTile == length}}});
        }
        if (start == length) continue;
        if (ends.rows + length - start > kTile || (start > 0 && open == kOpenTexts)) flush();
        ends.rows += length - start;
        ends.pieces.push_back({i, start, length - start, true});
        open += start > 0;
    }
    flush();
    return tiles;
}

// Consecutive texts [first, last) that go through the layers together.
using Unit = std::pair<std::size_t, std::size_t>;

// All texts but those of more than kUnit tokens.
std::vector<Unit> group_texts(const Batch &batch) {
    std::vector<Unit> units;
    std::size_t tokens = kUnit + 1;
    for (std::size_t i = 0; i < batch.texts; ++i) {
        if (length_of(batch, i) > kUnit) {
            tokens = kUnit + 1;
            continue;
        }
        tokens += length_of(batch, i);
        if (tokens > kUnit) {
            units.emplace_back(i, i);
            tokens = length_of(batch, i);
        }
        ++units.back().second;
    }
    return units;
}

// Every text from its beginning to its end, in tiles that are read one after the other.
std::vector<Tile> cut_in_order(const Batch &batch, std::size_t first, std::size_t last,
                               bool backwards) {
    std::vector<Tile> tiles(1);
    for (std::size_t j = first; j < last; ++j) {
        const std::size_t text = backwards ? first + last - 1 - j : j;
        const std::size_t length = length_of(batch, text);
        for (std::size_t start = 0; start < length; start += kTile) {
            const std::size_t rows = std::min(kTile, length - start);
            if (tiles.back().rows + rows > kTile) tiles.emplace_back();
            tiles.back().rows += rows;
            tiles.back().pieces.push_back({text, start, rows, start + rows == length});
        }
    }
    return tiles;
}

// The vectors of the texts that end in a tile to their rows of out.
void put_vectors(const Tile &tile, const float *vectors, std::size_t width, float *out) {
    for (const Piece &piece : tile.pieces) {
        if (!piece.last) continue;
        std::copy_n(vectors, width, out + piece.text * width);
        vectors += width;
    }
}

// Pieces in order on one thread: what one leaves behind, the next goes on from.
class OneThread : public Carrier {
  public:
    explicit OneThread(Workspace &work) : work_(work) {}
    Carry &carry(const Piece &, std::size_t) override { return work_.carry; }
    PoolState &pool(const Piece &) override { return work_.pool; }
    void pass(const Piece &, std::size_t) override {}

  private:
    Workspace &work_;
};

// Another thread has failed, so that what this one waits for will not come.
struct Abandoned {};

// The texts of a batch that are longer than a tile, shared by all threads.
class OpenTexts {
  public:
    OpenTexts(std::size_t texts, ObjectPool<TextState> &idle) : states_(texts), idle_(idle) {}

    void open(std::size_t text) {
        std::unique_ptr<TextState> state = idle_.take();
        std::fill(state->passed.begin(), state->passed.end(), 0);
        const std::lock_guard<std::mutex> lock(mutex_);
        states_[text] = std::move(state);
    }

    // The state of the piece's text, as soon as all earlier pieces have passed the layer.
    TextState &wait(const Piece &piece, std::size_t layer) {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] {
            const TextState *state = states_[piece.text].get();
            return failed_ || (state && state->passed[layer] == piece.start / kTile);
        });
        if (failed_) throw Abandoned();
        return *states_[piece.text];
    }

    void pass(const Piece &piece, std::size_t layer) {
        std::unique_ptr<TextState> closed;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            ++states_[piece.text]->passed[layer];
            if (piece.last && layer + 1 == states_[piece.text]->passed.size()) {
                closed = std::move(states_[piece.text]);
            }
        }
        changed_.notify_all();
        if (closed) idle_.give(std::move(closed));
    }

    void fail() {
        const std::lock_guard<std::mutex> lock(mutex_);
        failed_ = true;
        changed_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool failed_ = false;
    std::vector<std::unique_ptr<TextState>> states_;
    ObjectPool<TextState> &idle_;
};

// Pieces of a tile of ends or of whole texts, among threads that read other tiles.
class Shared : public Carrier {
  public:
    Shared(OpenTexts &texts, Workspace &work, std::size_t pooling)
        : texts_(texts), work_(work), pooling_(pooling) {}
    Carry &carry(const Piece &piece, std::size_t layer) override {
        return piece.whole() ? work_.carry : texts_.wait(piece, layer).layers[layer];
    }
    PoolState &pool(const Piece &piece) override {
        if (piece.whole()) return work_.pool;
        return texts_.wait(piece, pooling_).pool;
    }
    void pass(const Piece &piece, std::size_t layer) override {
        if (!piece.whole()) texts_.pass(piece, layer);
    }

  private:
    OpenTexts &texts_;
    Workspace &work_;
    std::size_t pooling_;  // the layer number of the pooling
};

// Runs task(i) for every i < count on up to `threads` threads, for texts whose states they share.
template <class Task>
void run_shared(std::size_t count, int threads, OpenTexts &texts, const Task &task) {
    std::mutex mutex;
    std::exception_ptr failure;  // an exception must not leave a thread
    run_tasks(count, static_cast<std::size_t>(threads), [&](std::size_t i, std::size_t) {
        [[maybe_unused]] const FlushDenormals guard;
        try {
            task(i);
        } catch (const Abandoned &) {
        } catch (...) {
            texts.fail();
            const std::lock_guard<std::mutex> lock(mutex);
            failure = std::current_exception();
        }
    });
    if (failure) std::rethrow_exception(failure);
}

}  // namespace

void Engine::encode(const Batch &batch, int threads, float *out, Profile *profile) const {
    return config_.alternating ? encode_alternating(batch, threads, out, profile)
                               : encode_causal(batch, threads, out, profile);
}

// Threads take the tiles in order. A tile of a longer text waits in each layer for the tile
// before it, which another thread has taken earlier; so there is always one that need not wait,
// and a long text occupies as many threads as there are layers.
void Engine::encode_causal(const Batch &batch, int threads, float *out, Profile *profile) const {
    const std::vector<Tile> tiles = cut_texts(batch);
    const std::size_t d = config_.d_model, width = dim(batch.bands);
    OpenTexts texts(batch.texts, memory_->texts);
    run_shared(tiles.size(), threads, texts, [&](std::size_t i) {
        std::unique_ptr<Workspace> work = take_workspace(profile);
        float *rows = work->residual.data();
        for (const Piece &piece : tiles[i].pieces) {
            if (piece.fresh() && !piece.last) texts.open(piece.text);
            embed(batch.ids + batch.offsets[piece.text] + piece.start, piece.rows, rows);
            rows += piece.rows * d;
        }
        work->end(Stage::embedding);
        Shared carrier(texts, *work, config_.n_layers);
        read_tile(tiles[i], batch.heads, carrier, *work);
        finish_tile(tiles[i], work->residual.data(), batch.bands, carrier, *work);
        put_vectors(tiles[i], work->vectors.data(), width, out);
        give_workspace(std::move(work));
    });
}

// Texts go through one layer after the other as a whole, because every second layer reads them
// from right to left.
void Engine::encode_unit(const Batch &batch, std::size_t first, std::size_t last, Workspace &work,
                         float *out) const {
    const std::size_t d = config_.d_model, width = dim(batch.bands);
    const auto rows = static_cast<std::size_t>(batch.offsets[last] - batch.offsets[first]);
    work.residual.reserve(rows * d);
    float *residual = work.residual.data();
    embed(batch.ids + batch.offsets[first], rows, residual);
    work.end(Stage::embedding);
    const std::vector<Tile> forwards = cut_in_order(batch, first, last, false);
    const std::vector<Tile> backwards = cut_in_order(batch, first, last, true);
    OneThread carrier(work);
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
        const auto heads = static_cast<std::size_t>(batch.heads[i]);
        const bool reversed = i % 2 == 1;
        const auto step = static_cast<std::ptrdiff_t>(d) * (reversed ? -1 : 1);
        float *at = residual + (reversed ? (rows - 1) * d : 0);
        for (const Tile &tile : reversed ? backwards : forwards) {
            mix(i, at, step, tile, heads, carrier, work);
            at += step * static_cast<std::ptrdiff_t>(tile.rows);
        }
        for (std::size_t start = 0; start < rows; start += kTile) {
            transform(blocks_[i], residual + start * d, std::min(kTile, rows - start), heads, work);
        }
    }
    for (const Tile &tile : forwards) {
        finish_tile(tile, residual, batch.bands, carrier, work);
        put_vectors(tile, work.vectors.data(), width, out);
        residual += tile.rows * d;
    }
}

// A text of many tiles goes through one layer after the other too; in each, threads take the tiles
// in order, and a tile waits for the scan of the tile before it.
void Engine::encode_long(const Batch &batch, std::size_t text, int threads, float *out,
                         Profile *profile) const {
    const std::size_t d = config_.d_model, width = dim(batch.bands);
    const std::size_t rows = length_of(batch, text);
    const std::int32_t *ids = batch.ids + batch.offsets[text];
    const std::vector<Tile> tiles = cut_in_order(batch, text, text + 1, false);
    Buffer residual(rows * d);
    OpenTexts texts(batch.texts, memory_->texts);
    texts.open(text);
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
        const auto heads = static_cast<std::size_t>(batch.heads[i]);
        const bool reversed = i % 2 == 1;
        const auto step = static_cast<std::ptrdiff_t>(d) * (reversed ? -1 : 1);
        run_shared(tiles.size(), threads, texts, [&](std::size_t j) {
            std::unique_ptr<Workspace> work = take_workspace(profile);
            const std::size_t n = tiles[j].rows, start = tiles[j].pieces.front().start;
            float *top = residual.data() + (reversed ? rows - start - n : start) * d;
            if (i == 0) embed(ids + start, n, top);
            work->end(Stage::embedding);
            Shared carrier(texts, *work, config_.n_layers);
            mix(i, reversed ? top + (n - 1) * d : top, step, tiles[j], heads, carrier, *work);
            transform(blocks_[i], top, n, heads, *work);
            give_workspace(std::move(work));
        });
    }
    run_shared(tiles.size(), threads, texts, [&](std::size_t j) {
        std::unique_ptr<Workspace> work = take_workspace(profile);
        Shared carrier(texts, *work, config_.n_layers);
        const float *top = residual.data() + tiles[j].pieces.front().start * d;
        finish_tile(tiles[j], top, batch.bands, carrier, *work);
        put_vectors(tiles[j], work->vectors.data(), width, out);
        give_workspace(std::move(work));
    });
}

void Engine::encode_alternating(const Batch &batch, int threads, float *out,
                                Profile *profile) const {
    for (std::size_t i = 0; i < batch.texts; ++i) {
        if (length_of(batch, i) > kUnit) encode_long(batch, i, threads, out, profile);
    }
    const std::vector<Unit> units = group_texts(batch);
    std::mutex mutex;
    std::exception_ptr failure;
    run_tasks(units.size(), static_cast<std::size_t>(threads), [&](std::size_t i, std::size_t) {
        [[maybe_unused]] const FlushDenormals guard;
        try {
            std::unique_ptr<Workspace> work = take_workspace(profile);
            encode_unit(batch, units[i].first, units[i].second, *work, out);
            give_workspace(std::move(work));
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            failure = std::current_exception();
        }
    });
    if (failure) std::rethrow_exception(failure);
}

namespace {

// Products that take as long as a thread takes to start, and then some.
constexpr std::size_t kThreadProducts = std::size_t{8} << 20;

}  // namespace

void Engine::project(const float *states, std::size_t count, std::size_t bands, int threads,
                     float *out) const {
    if (count == 0) return;
    const std::size_t d = config_.d_model, width = dim(bands);
    const std::size_t copies = config_.pooled_bands(bands);
    const std::size_t worth = std::max<std::size_t>(1, kThreadProducts / (d * width));
    const std::size_t workers =
        std::min(static_cast<std::size_t>(threads), (count + worth - 1) / worth);
    const std::size_t share = std::min(kTile, (count + workers - 1) / workers);
    std::mutex mutex;
    std::exception_ptr failure;
    run_ranges(count, share, workers, [&](std::size_t begin, std::size_t end, std::size_t) {
        try {
            std::unique_ptr<Workspace> work = take_workspace(nullptr);
            work->pooled.reserve((end - begin) * copies * d);
            float *pooled = work->pooled.data();
            for (std::size_t i = begin * copies; i < end * copies; ++i, pooled += d) {
                std::copy_n(states + i / copies * d, d, pooled);
            }
            project(end - begin, bands, *work);
            std::copy_n(work->vectors.data(), (end - begin) * width, out + begin * width);
            give_workspace(std::move(work));
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            failure = std::current_exception();
        }
    });
    if (failure) std::rethrow_exception(failure);
}

std::unique_ptr<Workspace> Engine::take_workspace(Profile *profile) const {
    std::unique_ptr<Workspace> work = memory_->workspaces.take();
    work->profile = profile;
    if (profile) profile->start();
    return work;
}

void Engine::give_workspace(std::unique_ptr<Workspace> work) const {
    work->profile = nullptr;
    memory_->workspaces.give(std::move(work));
}

namespace {

// The one text of a stream.
class OneText : public Carrier {
  public:
    explicit OneText(TextState &state) : state_(state) {}
    Carry &carry(const Piece &, std::size_t layer) override { return state_.layers[layer]; }
    PoolState &pool(const Piece &) override { return state_.pool; }
    void pass(const Piece &, std::size_t) override {}

  private:
    TextState &state_;
};

}  // namespace

Stream::Stream(const Engine &engine, std::vector<std::int32_t> heads)
    : engine_(engine),
      heads_(std::move(heads)),
      state_(std::make_unique<TextState>(engine.config_, engine.ops_->panel)) {
    if (engine.config_.alternating) {
        throw std::invalid_argument("only a causal model can read a text as it comes");
    }
}

Stream::~Stream() = default;

void Stream::read(TextState &state, const std::int32_t *ids, const Piece &piece, std::size_t bands,
                  Workspace &work) const {
    [[maybe_unused]] const FlushDenormals guard;
    const Tile tile{piece.rows, {piece}};
    OneText carrier(state);
    engine_.embed(ids, piece.rows, work.residual.data());
    engine_.read_tile(tile, heads_.data(), carrier, work);
    engine_.finish_tile(tile, work.residual.data(), bands, carrier, work);
}

void Stream::append(const std::int32_t *ids, std::size_t count) {
    pending_.insert(pending_.end(), ids, ids + count);
    auto &workspaces = engine_.memory_->workspaces;
    auto work = workspaces.take();
    std::size_t start = 0;
    for (; pending_.size() - start >= kTile; start += kTile) {
        read(*state_, pending_.data() + start, {0, read_, kTile, false},
             engine_.config_.band_widths.size(), *work);
        read_ += kTile;
    }
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(start));
    workspaces.give(std::move(work));
}

void Stream::vector(const std::int32_t *end, std::size_t count, std::size_t bands,
                    float *out) const {
    std::vector<std::int32_t> rest = pending_;
    rest.insert(rest.end(), end, end + count);
    auto &memory = *engine_.memory_;
    auto work = memory.workspaces.take();
    auto state = memory.texts.take();
    state->copy(*state_);
    for (std::size_t start = 0; start < rest.size(); start += kTile) {
        const std::size_t rows = std::min(kTile, rest.size() - start);
        const bool last = start + rows == rest.size();
        read(*state, rest.data() + start, {0, read_ + start, rows, last}, bands, *work);
    }
    std::copy_n(work->vectors.data(), engine_.dim(bands), out);
    memory.texts.give(std::move(state));
    memory.workspaces.give(std::move(work));
}

}  // namespace adaptive_search
