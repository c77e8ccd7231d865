// The Mamba-2 recurrence as matrix products over chunks of kChunk positions.
//
// Source: Dao and Gu 2024, arXiv:2405.21060, section 6 and Listing 1.
#pragma once

#include "ops.h"
#include "simd_decay.h"

namespace adaptive_search {
namespace {

// Scratch of one scan; kChunk positions t, s; every headdim row padded to whole panels.
struct Work {
    float *Bt;      // (d_state, kChunk)
    float *CB;      // (kChunk, kChunk): C[t] . B[s]
    float *mixed;   // (kChunk, kChunk): CB times the decay from s to t, zero for s > t
    float *input;   // (kChunk, padded): dt x
    float *kept;    // (kChunk, padded): dt x times the decay to the chunk's end
    size_t padded;  // headdim in whole panels
};

Work divide(const Scan &s) {
    const size_t padded = round_up(s.headdim, kPanel);
    float *next = s.scratch;
    const auto take = [&next](size_t size) {
        float *part = next;
        next += size;
        return part;
    };
    return {take(s.d_state * kChunk), take(kChunk * kChunk), take(kChunk * kChunk),
            take(kChunk * padded), take(kChunk * padded), padded};
}

// Bt and CB, which all heads share.
void relate_positions(const Scan &s, const Work &w, size_t start, size_t rows) {
    for (size_t t = 0; t < rows; ++t) {
        const float *B = row(s.B, s.ldbc, start + t);
        for (size_t n = 0; n < s.d_state; ++n) w.Bt[n * kChunk + t] = B[n];
    }
    for_row_blocks(rows, [&](size_t t, auto block) {
        constexpr int R = decltype(block)::value;
        for (size_t j = 0; j < rows; j += kPanel) {
            Tile<R> tile{};
            multiply(tile, row(s.C, s.ldbc, start + t), s.ldbc, 1, w.Bt + j, kChunk, s.d_state);
            for (int r = 0; r < R; ++r) {
                float *target = w.CB + (t + static_cast<size_t>(r)) * kChunk + j;
                store(target, tile.v[r][0]);
                store(target + kLanes, tile.v[r][1]);
            }
        }
    });
}

// CB under the decays of one head.
void mix_positions(const Scan &s, const Work &w, size_t head, size_t start, size_t rows,
                   Decay &decay) {
    decay_positions(s, head, start, rows, decay, [&](size_t t, const Vec *between) {
        for (size_t v = 0; v < kChunkVectors; ++v) {
            const size_t at = t * kChunk + v * kLanes;
            store(w.mixed + at, between[v] * load(w.CB + at));
        }
    });
}

void weigh_inputs(const Scan &s, const Work &w, size_t head, size_t start, size_t rows,
                  const Decay &decay) {
    for (size_t t = 0; t < rows; ++t) {
        const float *x = row(s.x, s.ldx, start + t) + head * s.headdim;
        const Vec dt = fill(row(s.dt, s.lddt, start + t)[head]), to_end = fill(decay.to_end[t]);
        for (size_t p = 0; p < w.padded; p += kLanes) {
            const size_t left = p < s.headdim ? smaller(s.headdim - p, kLanes) : 0;
            const Vec input = dt * (left == kLanes ? load(x + p) : load(x + p, left));
            store(w.input + t * w.padded + p, input);
            store(w.kept + t * w.padded + p, input * to_end);
        }
    }
}

// y[t] = D x[t] + decayed C[t] state + sum over s <= t of mixed[t, s] dt x[s]. No state is a
// state of zeros.
void write_outputs(const Scan &s, const Work &w, size_t head, size_t start, size_t rows,
                   const Decay &decay, const float *state) {
    const Vec D = fill(s.D[head]);
    for (size_t p = 0; p < s.headdim; p += kPanel) {
        const size_t columns = smaller(s.headdim - p, kPanel);
        const size_t first = smaller(columns, kLanes), second = columns - first;
        for_row_blocks(rows, [&](size_t t, auto block) {
            constexpr int R = decltype(block)::value;
            Tile<R> tile{};
            const ptrdiff_t padded = static_cast<ptrdiff_t>(w.padded);
            if (state) {
                multiply(tile, row(s.C, s.ldbc, start + t), s.ldbc, 1, state + p, padded,
                         s.d_state);
                for (int r = 0; r < R; ++r) {
                    tile.v[r][0] *= fill(decay.from_start[t + static_cast<size_t>(r)]);
                    tile.v[r][1] *= fill(decay.from_start[t + static_cast<size_t>(r)]);
                }
            }
            multiply(tile, w.mixed + t * kChunk, kChunk, 1, w.input + p, padded, t + R);
            for (int r = 0; r < R; ++r) {
                const size_t position = start + t + static_cast<size_t>(r);
                const size_t at = head * s.headdim + p;
                const float *x = row(s.x, s.ldx, position) + at;
                const Vec y0 = tile.v[r][0] + D * load(x, first);
                const Vec y1 = tile.v[r][1] + D * load(x + first, second);
                put_pair(row(s.y, s.ldy, position) + at, y0, y1, columns, false);
            }
        });
    }
}

// state[n] = decayed state[n] + sum over t of B[t, n] kept[t]. A fresh state was zero.
void update_state(const Scan &s, const Work &w, size_t start, size_t rows, bool fresh,
                  float whole_decay, float *state) {
    const ptrdiff_t padded = static_cast<ptrdiff_t>(w.padded);
    for (size_t p = 0; p < w.padded; p += kPanel) {
        for_row_blocks(s.d_state, [&](size_t n, auto block) {
            constexpr int R = decltype(block)::value;
            Tile<R> tile{};
            float *cells = state + n * w.padded + p;
            for (int r = 0; r < R && !fresh; ++r) {
                tile.v[r][0] = load(cells + r * padded) * fill(whole_decay);
                tile.v[r][1] = load(cells + r * padded + kLanes) * fill(whole_decay);
            }
            multiply(tile, row(s.B, s.ldbc, start) + n, 1, s.ldbc, w.kept + p, padded, rows);
            for (int r = 0; r < R; ++r) {
                store(cells + r * padded, tile.v[r][0]);
                store(cells + r * padded + kLanes, tile.v[r][1]);
            }
        });
    }
}

void ssd_scan_f32(const Scan &s) {
    const Work w = divide(s);
    for (size_t start = 0; start < s.rows; start += kChunk) {
        const size_t rows = smaller(s.rows - start, kChunk);
        const bool fresh = s.begins && start == 0, over = s.ends && start + rows == s.rows;
        relate_positions(s, w, start, rows);
        for (size_t head = 0; head < s.heads; ++head) {
            float *state = s.state + head * s.d_state * w.padded;
            Decay decay;
            mix_positions(s, w, head, start, rows, decay);
            weigh_inputs(s, w, head, start, rows, decay);
            write_outputs(s, w, head, start, rows, decay, fresh ? nullptr : state);
            if (over) continue;
            update_state(s, w, start, rows, fresh, decay.from_start[rows - 1], state);
        }
    }
}

}  // namespace
}  // namespace adaptive_search
