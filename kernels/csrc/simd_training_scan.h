// The Mamba-2 recurrence and its gradient, over chunks of kChunk positions.
//
// Source: Dao and Gu 2024, arXiv:2405.21060, section 6. The gradient of the log decays is
// summed from the terms that a decay really scales (never the diagonal, nor a difference of
// large sums), so it keeps its digits where the state fades fast.
#pragma once

#include "ops.h"
#include "simd_scan.h"
#include "simd_training.h"

namespace adaptive_search {
namespace {

ADAPTIVE_SEARCH_INLINE void clear(float *p, size_t n) { __builtin_memset(p, 0, 4 * n); }

// Rows of T to rows of float, ldo apart.
template <class T>
void widen(const T *from, ptrdiff_t stride, size_t rows, size_t width, float *out, size_t ldo) {
    for (size_t t = 0; t < rows; ++t) {
        for_lanes(width, [&](size_t c, size_t count) {
            store(out + t * ldo + c, load(row(from, stride, t) + c, count), count);
        });
    }
}

template <class T>
size_t scan_forward_scratch(const ScanArguments<T> &a, size_t heads) {
    const size_t padded = round_up(a.headdim, kPanel);
    return kChunk * (heads * a.headdim + 2 * a.d_state) + heads * a.d_state * padded +
           scan_scratch(a.d_state, padded);
}

template <class T>
void scan_forward(const ScanArguments<T> &a, const ScanPart &part) {
    const size_t heads = part.last - part.first, width = heads * a.headdim;
    const size_t column = part.first * a.headdim;
    const size_t state_size = heads * a.d_state * round_up(a.headdim, kPanel);
    float *x = part.scratch, *B = x + kChunk * width, *C = B + kChunk * a.d_state;
    float *state = C + kChunk * a.d_state;
    clear(state, state_size);
    const ptrdiff_t ldx = static_cast<ptrdiff_t>(width), ldbc = static_cast<ptrdiff_t>(a.d_state);
    for (size_t start = 0; start < a.seqlen; start += kChunk) {
        const size_t rows = smaller(a.seqlen - start, kChunk);
        widen(at(a.x, part.sequence, start) + column, a.x.row_stride, rows, width, x, width);
        widen(at(a.B, part.sequence, start), a.B.row_stride, rows, a.d_state, B, a.d_state);
        widen(at(a.C, part.sequence, start), a.C.row_stride, rows, a.d_state, C, a.d_state);
        ssd_scan_f32({rows, heads, a.headdim, a.d_state, x, ldx,
                      at(a.dt, part.sequence, start) + part.first, a.dt.row_stride, B, C, ldbc,
                      a.A + part.first, a.D + part.first, state, x, ldx, state + state_size});
        for (size_t t = 0; t < rows; ++t) {
            T *y = at(a.y, part.sequence, start + t) + column;
            for_lanes(width, [&](size_t c, size_t count) {
                store(y + c, load(x + t * width + c, count), count);
            });
        }
    }
}

// out (columns, rows) = x (rows, columns) transposed.
void transpose(const float *x, size_t rows, size_t columns, float *out) {
    using Four = float __attribute__((vector_size(16)));
    const size_t whole = rows / 4 * 4;
    for (size_t r = 0; r < whole; r += 4) {
        const float *p = x + r * columns;
        for (size_t c = 0; c < columns; ++c, ++p) {
            const Four column{p[0], p[columns], p[2 * columns], p[3 * columns]};
            __builtin_memcpy(out + c * rows + r, &column, sizeof column);
        }
    }
    for (size_t c = 0; c < columns; ++c) {
        for (size_t r = whole; r < rows; ++r) out[c * rows + r] = x[r * columns + c];
    }
}

// put(row, column, v0, v1) for each pair of vectors of a (m, k) b (k, n); n in whole panels.
template <class F>
ADAPTIVE_SEARCH_INLINE void for_products(const float *a, size_t row_stride, size_t k_stride,
                                         size_t m, const float *b, size_t ldb, size_t k,
                                         size_t n, F put) {
    for (size_t j = 0; j < n; j += kPanel) {
        for_row_blocks(m, [&](size_t i, auto block) {
            constexpr int R = decltype(block)::value;
            Tile<R> tile{};
            multiply(tile, a + i * row_stride, static_cast<ptrdiff_t>(row_stride),
                     static_cast<ptrdiff_t>(k_stride), b + j, static_cast<ptrdiff_t>(ldb), k);
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r) {
                put(i + static_cast<size_t>(r), j, tile.v[r][0], tile.v[r][1]);
            }
        });
    }
}

ADAPTIVE_SEARCH_INLINE void add_to(float *p, Vec v) { store(p, load(p) + v); }

// Memory of one part: first what all its heads share, over the whole sequence of `padded`
// positions (whole chunks, zero behind the end); then that of one head; then of one chunk.
struct Tape {
    size_t chunks, padded, states;  // states: d_state in whole panels
    float *B, *C, *dB, *dC;         // (padded, states)
    float *Bt;                      // (chunks, states, kChunk)
    float *CB, *dCB;                // (chunks, kChunk, kChunk)
    float *before;                  // (chunks, headdim, states): the state before each chunk
    float *dafter;                  // (headdim, states): the gradient of the state after the chunk
    float *x, *dy;                  // (kChunk, headdim)
    float *xt, *dxt;                // (headdim, kChunk)
    float *mixed;                   // (kChunk, kChunk)
    size_t size;                    // floats in all
};

// Without scratch, only the sizes are right.
template <class T>
Tape lay_out(const ScanArguments<T> &a, float *scratch) {
    Tape tape;
    tape.chunks = (a.seqlen + kChunk - 1) / kChunk;
    tape.padded = tape.chunks * kChunk;
    tape.states = round_up(a.d_state, kPanel);
    tape.size = 0;
    const auto take = [&](size_t size) {
        const size_t start = tape.size;
        tape.size += size;
        return scratch == nullptr ? nullptr : scratch + start;
    };
    const size_t maps = tape.padded * tape.states, pairs = tape.padded * kChunk;
    tape.B = take(maps), tape.C = take(maps), tape.dB = take(maps), tape.dC = take(maps);
    tape.Bt = take(maps), tape.CB = take(pairs), tape.dCB = take(pairs);
    tape.before = take(tape.chunks * a.headdim * tape.states);
    tape.dafter = take(a.headdim * tape.states);
    const size_t inputs = kChunk * a.headdim;
    tape.x = take(inputs), tape.dy = take(inputs), tape.xt = take(inputs), tape.dxt = take(inputs);
    tape.mixed = take(kChunk * kChunk);
    return tape;
}

template <class T>
size_t scan_backward_scratch(const ScanArguments<T> &a) {
    return lay_out<T>(a, nullptr).size;
}

// B, C, their products and zero gradients.
template <class T>
void share_maps(const ScanArguments<T> &a, const ScanPart &part, const Tape &w) {
    const size_t maps = w.padded * w.states;
    clear(w.B, 4 * maps);  // B, C, dB and dC lie in a row
    clear(w.dCB, w.padded * kChunk);
    widen(at(a.B, part.sequence, 0), a.B.row_stride, a.seqlen, a.d_state, w.B, w.states);
    widen(at(a.C, part.sequence, 0), a.C.row_stride, a.seqlen, a.d_state, w.C, w.states);
    for (size_t chunk = 0; chunk < w.chunks; ++chunk) {
        const float *B = w.B + chunk * kChunk * w.states;
        float *Bt = w.Bt + chunk * kChunk * w.states, *CB = w.CB + chunk * kChunk * kChunk;
        transpose(B, kChunk, w.states, Bt);
        for_products(w.C + chunk * kChunk * w.states, w.states, 1, kChunk, Bt, kChunk, w.states,
                     kChunk, [&](size_t t, size_t s, Vec v0, Vec v1) {
                         store(CB + t * kChunk + s, v0);
                         store(CB + t * kChunk + s + kLanes, v1);
                     });
    }
}

// One head over one chunk; positions behind the end have dt = 0 and decay nothing.
struct Steps {
    float dt[kChunk], step[kChunk];  // step: exp(dt A)
    float from_start[kChunk];        // product of the steps up to and with t
    float to_end[kChunk];            // product of the steps after t
};

template <class T>
void load_steps(const ScanArguments<T> &a, size_t sequence, size_t head, size_t start, Steps &s) {
    const size_t rows = smaller(a.seqlen - start, kChunk);
    for (size_t t = 0; t < kChunk; ++t) {
        s.dt[t] = t < rows ? at(a.dt, sequence, start + t)[head] : 0.0f;
    }
    for (size_t t = 0; t < kChunk; t += kLanes) {
        store(s.step + t, exp_lanes(load(s.dt + t) * fill(a.A[head])));
    }
    float product = 1.0f;
    for (size_t t = 0; t < kChunk; ++t) s.from_start[t] = product *= s.step[t];
    product = 1.0f;
    for (size_t t = kChunk; t-- > 0; product *= s.step[t]) s.to_end[t] = product;
}

// A head's part of a chunk of x or dy, zero behind the end; calls the next head's to the cache.
template <class T>
void load_head(const ScanArguments<T> &a, const Sequences<const T> &from, size_t sequence,
               size_t head, size_t start, float *out) {
    const size_t rows = smaller(a.seqlen - start, kChunk);
    const T *part = at(from, sequence, start) + head * a.headdim;
    for (size_t t = 0; t < rows; ++t) __builtin_prefetch(row(part, from.row_stride, t) + a.headdim);
    widen(part, from.row_stride, rows, a.headdim, out, a.headdim);
    clear(out + rows * a.headdim, (kChunk - rows) * a.headdim);
}

ADAPTIVE_SEARCH_INLINE void scale_rows(float *x, size_t width, const float *scale) {
    for (size_t t = 0; t < kChunk; ++t) {
        for_lanes(width, [&](size_t c, size_t count) {
            float *p = x + t * width + c;
            store(p, load(p, count) * fill(scale[t]), count);
        });
    }
}

// sum = decay * sum + x^T maps, where x is (kChunk, headdim) and sum (headdim, states).
void fold_chunk(const Tape &w, size_t headdim, const float *x, const float *maps, float decay,
                const float *from, float *to) {
    for_products(x, 1, headdim, headdim, maps, w.states, kChunk, w.states,
                 [&](size_t p, size_t n, Vec v0, Vec v1) {
                     const size_t cell = p * w.states + n;
                     store(to + cell, fill(decay) * load(from + cell) + v0);
                     store(to + cell + kLanes, fill(decay) * load(from + cell + kLanes) + v1);
                 });
}

// The state of one head before each chunk.
template <class T>
void replay_states(const ScanArguments<T> &a, const ScanPart &part, size_t head, const Tape &w) {
    const size_t size = a.headdim * w.states;
    clear(w.before, size);
    for (size_t chunk = 0; chunk + 1 < w.chunks; ++chunk) {
        Steps steps;
        load_steps(a, part.sequence, head, chunk * kChunk, steps);
        load_head(a, a.x, part.sequence, head, chunk * kChunk, w.x);
        float weight[kChunk];
        for (size_t t = 0; t < kChunk; ++t) weight[t] = steps.dt[t] * steps.to_end[t];
        scale_rows(w.x, a.headdim, weight);
        float *before = w.before + chunk * size;
        fold_chunk(w, a.headdim, w.x, w.B + chunk * kChunk * w.states,
                   steps.from_start[kChunk - 1], before, before + size);
    }
}

// What a chunk's log decays dt A and its dt have earned so far, by position.
struct StepSlopes {
    float later[kChunk];    // counts for the decay at this position and before
    float earlier[kChunk];  // counts for the decays after this position
    float direct[kChunk];   // dt as the weight of x
    float all;              // counts for every decay
};

// Turns dy x^T, in mixed, into CB under the decays; collects dCB and the decays' slopes.
void mix_positions(const Tape &w, size_t chunk, const Steps &steps, StepSlopes &slopes) {
    const float *CB = w.CB + chunk * kChunk * kChunk;
    float *dCB = w.dCB + chunk * kChunk * kChunk;
    Word lane[kChunkVectors];
    Vec between[kChunkVectors] = {}, column[kChunkVectors] = {}, dt[kChunkVectors];
    for (size_t v = 0; v < kChunkVectors; ++v) {
        for (size_t i = 0; i < kLanes; ++i) lane[v][i] = static_cast<unsigned>(v * kLanes + i);
        dt[v] = load(steps.dt + v * kLanes);
    }
    for (size_t t = 0; t < kChunk; ++t) {
        const Word now = static_cast<unsigned>(t) - Word{};
        Vec total{};
        for (size_t v = 0; v < kChunkVectors; ++v) {
            const size_t cell = t * kChunk + v * kLanes;
            const Vec decayed = between[v] * fill(steps.step[t]);  // zero from the diagonal on
            between[v] = lane[v] == now ? fill(1.0f) : decayed;
            const Vec product = load(w.mixed + cell) * dt[v], shared = load(CB + cell);
            add_to(dCB + cell, product * between[v]);
            store(w.mixed + cell, between[v] * shared);
            const Vec scaled = product * shared * decayed;
            total += scaled;
            column[v] += scaled;
        }
        slopes.later[t] = sum_lanes(total);
    }
    for (size_t v = 0; v < kChunkVectors; ++v) {
        float *p = slopes.later + v * kLanes;
        store(p, load(p) - column[v]);
    }
}

// dxt: the gradient of dt x, transposed; and what the decays to the chunk's end earn by it.
void input_slopes(const Tape &w, size_t headdim, size_t chunk, const Steps &steps,
                  StepSlopes &slopes) {
    const bool last = chunk + 1 == w.chunks;
    const float *Bt = w.Bt + chunk * kChunk * w.states;
    for (size_t s = 0; s < kChunk; s += kPanel) {
        const Vec end0 = load(steps.to_end + s), end1 = load(steps.to_end + s + kLanes);
        Vec kept0{}, kept1{}, direct0{}, direct1{};
        for_row_blocks(headdim, [&](size_t p, auto block) {
            constexpr int R = decltype(block)::value;
            Tile<R> tile{};
            const float *xt = w.xt + p * kChunk + s;
            if (!last) {
                multiply(tile, w.dafter + p * w.states, static_cast<ptrdiff_t>(w.states), 1,
                         Bt + s, kChunk, w.states);
#pragma GCC unroll 12
                for (int r = 0; r < R; ++r) {
                    tile.v[r][0] *= end0;
                    tile.v[r][1] *= end1;
                    kept0 += tile.v[r][0] * load(xt + r * kChunk);
                    kept1 += tile.v[r][1] * load(xt + r * kChunk + kLanes);
                }
            }
            // mixed is zero above its diagonal, so the rows before s add nothing.
            multiply(tile, w.dy + s * headdim + p, 1, static_cast<ptrdiff_t>(headdim),
                     w.mixed + s * kChunk + s, kChunk, kChunk - s);
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r) {
                direct0 += tile.v[r][0] * load(xt + r * kChunk);
                direct1 += tile.v[r][1] * load(xt + r * kChunk + kLanes);
                float *out = w.dxt + (p + static_cast<size_t>(r)) * kChunk + s;
                store(out, tile.v[r][0]);
                store(out + kLanes, tile.v[r][1]);
            }
        });
        store(slopes.earlier + s, kept0 * load(steps.dt + s));
        store(slopes.earlier + s + kLanes, kept1 * load(steps.dt + s + kLanes));
        store(slopes.direct + s, direct0);
        store(slopes.direct + s + kLanes, direct1);
    }
}

// dC from the state before the chunk, under dy that has been scaled by from_start.
void read_slopes(const Tape &w, size_t headdim, size_t chunk, StepSlopes &slopes) {
    const size_t maps = chunk * kChunk * w.states;
    Vec total[kChunk] = {};
    for_products(w.dy, headdim, 1, kChunk, w.before + chunk * headdim * w.states, w.states,
                 headdim, w.states, [&](size_t t, size_t n, Vec v0, Vec v1) {
                     const size_t cell = maps + t * w.states + n;
                     total[t] += v0 * load(w.C + cell) + v1 * load(w.C + cell + kLanes);
                     add_to(w.dC + cell, v0);
                     add_to(w.dC + cell + kLanes, v1);
                 });
    for (size_t t = 0; t < kChunk; ++t) slopes.later[t] += sum_lanes(total[t]);
}

// dB from the gradient of the state after the chunk.
void write_slopes(const Tape &w, size_t headdim, size_t chunk, const Steps &steps) {
    float *dB = w.dB + chunk * kChunk * w.states;
    for_products(w.xt, 1, kChunk, kChunk, w.dafter, w.states, headdim, w.states,
                 [&](size_t s, size_t n, Vec v0, Vec v1) {
                     const Vec weight = fill(steps.to_end[s] * steps.dt[s]);
                     add_to(dB + s * w.states + n, v0 * weight);
                     add_to(dB + s * w.states + n + kLanes, v1 * weight);
                 });
}

ADAPTIVE_SEARCH_INLINE float dot(const float *a, const float *b, size_t n) {
    Vec total{};
    for_lanes(n, [&](size_t c, size_t count) { total += load(a + c, count) * load(b + c, count); });
    return sum_lanes(total);
}

// Writes dx of one head and chunk.
template <class T>
void put_inputs(const ScanArguments<T> &a, size_t sequence, size_t head, size_t start,
                const Tape &w, const Steps &steps) {
    transpose(w.dxt, a.headdim, kChunk, w.x);
    const Vec D = fill(a.D[head]);
    for (size_t t = 0; t < smaller(a.seqlen - start, kChunk); ++t) {
        T *dx = at(a.dx, sequence, start + t) + head * a.headdim;
        for_lanes(a.headdim, [&](size_t p, size_t count) {
            const size_t cell = t * a.headdim + p;
            const Vec direct = D * load(w.dy + cell, count);
            store(dx + p, fill(steps.dt[t]) * load(w.x + cell, count) + direct, count);
        });
    }
}

// Writes ddt of one head and chunk; returns its part of dA.
template <class T>
float put_steps(const ScanArguments<T> &a, size_t sequence, size_t head, size_t start,
                const Steps &steps, const StepSlopes &slopes) {
    float slope[kChunk], dA = 0.0f, sum = 0.0f;
    for (size_t t = kChunk; t-- > 0;) slope[t] = sum += slopes.later[t];
    sum = slopes.all;
    for (size_t t = 0; t < kChunk; sum += slopes.earlier[t++]) slope[t] += sum;
    for (size_t t = 0; t < smaller(a.seqlen - start, kChunk); ++t) {
        at(a.ddt, sequence, start + t)[head] = a.A[head] * slope[t] + slopes.direct[t];
        dA += steps.dt[t] * slope[t];
    }
    return dA;
}

template <class T>
void chunk_backward(const ScanArguments<T> &a, const ScanPart &part, size_t head, size_t chunk,
                    const Tape &w, float &dA, float &dD) {
    const size_t start = chunk * kChunk, size = a.headdim * w.states;
    const float *before = w.before + chunk * size;
    Steps steps;
    StepSlopes slopes;
    load_steps(a, part.sequence, head, start, steps);
    load_head(a, a.x, part.sequence, head, start, w.x);
    load_head(a, a.dy, part.sequence, head, start, w.dy);
    dD += dot(w.x, w.dy, kChunk * a.headdim);
    transpose(w.x, kChunk, a.headdim, w.xt);
    for_products(w.dy, a.headdim, 1, kChunk, w.xt, kChunk, a.headdim, kChunk,
                 [&](size_t t, size_t s, Vec v0, Vec v1) {
                     store(w.mixed + t * kChunk + s, v0);
                     store(w.mixed + t * kChunk + s + kLanes, v1);
                 });
    mix_positions(w, chunk, steps, slopes);
    input_slopes(w, a.headdim, chunk, steps, slopes);
    put_inputs(a, part.sequence, head, start, w, steps);
    const float whole = steps.from_start[kChunk - 1];
    slopes.all = 0.0f;
    if (chunk + 1 < w.chunks) {
        write_slopes(w, a.headdim, chunk, steps);
        if (chunk > 0) slopes.all = whole * dot(w.dafter, before, size);
    }
    if (chunk > 0) {
        scale_rows(w.dy, a.headdim, steps.from_start);
        read_slopes(w, a.headdim, chunk, slopes);
        fold_chunk(w, a.headdim, w.dy, w.C + start * w.states, whole, w.dafter, w.dafter);
    }
    dA += put_steps(a, part.sequence, head, start, steps, slopes);
}

// The part of dB and dC that comes by way of CB, and both of them out.
template <class T>
void put_maps(const ScanArguments<T> &a, const ScanPart &part, const Tape &w) {
    for (size_t chunk = 0; chunk < w.chunks; ++chunk) {
        const size_t maps = chunk * kChunk * w.states;
        const float *dCB = w.dCB + chunk * kChunk * kChunk;
        const auto add = [&](float *out) {
            return [=, &w](size_t t, size_t n, Vec v0, Vec v1) {
                add_to(out + t * w.states + n, v0);
                add_to(out + t * w.states + n + kLanes, v1);
            };
        };
        for_products(dCB, kChunk, 1, kChunk, w.B + maps, w.states, kChunk, w.states,
                     add(w.dC + maps));
        for_products(dCB, 1, kChunk, kChunk, w.C + maps, w.states, kChunk, w.states,
                     add(w.dB + maps));
    }
    const ptrdiff_t stride = static_cast<ptrdiff_t>(w.states);
    const size_t width = a.d_state, rows = a.seqlen;
    widen(w.dB, stride, rows, width, at(a.dB, part.sequence, 0), width);
    widen(w.dC, stride, rows, width, at(a.dC, part.sequence, 0), width);
}

template <class T>
void scan_backward(const ScanArguments<T> &a, const ScanPart &part) {
    const Tape w = lay_out(a, part.scratch);
    share_maps(a, part, w);
    for (size_t head = part.first; head < part.last; ++head) {
        replay_states(a, part, head, w);
        clear(w.dafter, a.headdim * w.states);
        float dA = 0.0f, dD = 0.0f;
        for (size_t chunk = w.chunks; chunk-- > 0;) {
            chunk_backward(a, part, head, chunk, w, dA, dD);
        }
        a.dA[part.sequence * a.nheads + head] = dA;
        a.dD[part.sequence * a.nheads + head] = dD;
    }
    put_maps(a, part, w);
}

template <class T>
const TrainingOps<T> &training_table() {
    static constexpr TrainingOps<T> ops{
        conv_forward<T>,         conv_backward<T>,         norm_forward<T>,
        norm_backward<T>,        gated_norm_forward<T>,    gated_norm_backward<T>,
        swiglu_forward<T>,       swiglu_backward<T>,       scan_forward_scratch<T>,
        scan_forward<T>,         scan_backward_scratch<T>, scan_backward<T>};
    return ops;
}

}  // namespace
}  // namespace adaptive_search
