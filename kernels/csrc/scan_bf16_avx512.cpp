// The Mamba-2 recurrence with its products in bfloat16, sums and state in float32; the steps are
// those of simd_scan.h.
#define ADAPTIVE_SEARCH_LANES 16
#define ADAPTIVE_SEARCH_TILE_ROWS 12
#include <immintrin.h>

#include "ops.h"
#include "simd_decay.h"
#include "simd_pairs.h"

namespace adaptive_search {
namespace {

using Half = std::uint16_t;
static_assert(kChunk == 2 * kLanes, "a row of halves of a chunk must fill a register");

// Two halves a word: the first in the lower one.
ADAPTIVE_SEARCH_INLINE Word join_halves(Vec first, Vec second) {
    const __m512i sides = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    const Word lower = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const __m512i order = (__m512i)(lower | (lower + kLanes) << 16);
    return (Word)_mm512_permutexvar_epi16(order, sides);
}

ADAPTIVE_SEARCH_INLINE void store_word(void *p, Word v) { __builtin_memcpy(p, &v, sizeof v); }

// 32 values as halves, one after the other.
ADAPTIVE_SEARCH_INLINE void store_halves(Half *p, Vec first, Vec second) {
    const __m512bh halves = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    __builtin_memcpy(p, &halves, sizeof halves);
}

// to[j, i] = from[i, j] of 16 x 16 words, rows lds and ldt words apart.
void transpose_words(const std::uint32_t *from, size_t lds, std::uint32_t *to, size_t ldt) {
    __m512i a[16], b[16];
    for (size_t i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * lds);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        a[i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
        a[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd);
    }
    for (size_t i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * ldt, a[i]);
}

// Scratch of one scan, in bfloat16 but for CB. N is d_state in whole registers of halves; panels
// are kPanel columns of a head.
struct Work {
    Half *C;      // (kChunk, N)
    Half *B;      // (kChunk, N), then (kChunk / 2, N, 2): pairs of positions
    Half *Bt;     // (N / 2, kChunk, 2), then (N, kChunk)
    float *CB;    // (kChunk, kChunk): C[t] . B[s]
    Half *mixed;  // (kChunk, kChunk): CB times the decay from s to t, zero for s > t
    Half *input;  // (panels, kChunk / 2, kPanel, 2): dt x
    Half *kept;   // likewise: dt x times the decay to the chunk's end
    Half *state;  // (panels, N / 2, kPanel, 2)
    size_t N, padded;
};

Work divide(const Scan &s) {
    const size_t N = round_up(s.d_state, 2 * kLanes), padded = round_up(s.headdim, kPanel);
    float *next = s.scratch;
    const auto take = [&next](size_t floats) {
        float *part = next;
        next += floats;
        return part;
    };
    const auto halves = [&take](size_t size) { return reinterpret_cast<Half *>(take(size / 2)); };
    Half *C = halves(kChunk * N), *B = halves(kChunk * N), *Bt = halves(kChunk * N);
    float *CB = take(kChunk * kChunk);
    return {C,      B,
            Bt,     CB,
            halves(kChunk * kChunk), halves(kChunk * padded),
            halves(kChunk * padded), halves(N * padded),
            N,      padded};
}

// Values [c, c + 16) of a row of n values, zero beyond it.
ADAPTIVE_SEARCH_INLINE Vec load_within(const float *values, size_t c, size_t n) {
    if (c + kLanes <= n) return load(values + c);
    return c < n ? load(values + c, n - c) : Vec{};
}

std::uint32_t *words(Half *p) { return reinterpret_cast<std::uint32_t *>(p); }

// C, CB, and B as update_state() reads it, which all heads share.
void relate_positions(const Scan &s, const Work &w, size_t start, size_t rows) {
    for (size_t n = 0; n < w.N; n += kChunk) {
        for (size_t t = 0; t < kChunk; ++t) {
            const size_t position = start + (t < rows ? t : 0), within = t < rows ? s.d_state : 0;
            const float *B = row(s.B, s.ldbc, position), *C = row(s.C, s.ldbc, position);
            store_halves(w.B + t * w.N + n, load_within(B, n, within),
                         load_within(B, n + kLanes, within));
            store_halves(w.C + t * w.N + n, load_within(C, n, within),
                         load_within(C, n + kLanes, within));
        }
        for (size_t t = 0; t < kChunk; t += kLanes) {  // pairs of states
            transpose_words(words(w.B) + t * w.N / 2 + n / 2, w.N / 2,
                            words(w.Bt) + n / 2 * kChunk + t, kChunk);
        }
    }
    for_row_blocks(rows, [&](size_t t, auto block) {
        constexpr int R = decltype(block)::value;
        for (size_t j = 0; j < rows; j += kPanel) {
            Tile<R> tile{};
            multiply_pairs(tile, w.C + t * w.N, static_cast<ptrdiff_t>(w.N), w.Bt + 2 * j,
                           (s.d_state + 1) / 2);
            put_tile(w.CB + t * kChunk + j, kChunk, tile, kPanel, false);
        }
    });
    for (size_t n = 0; n < w.N; n += kLanes) {
        for (size_t t = 0; t < kChunk; t += 2) {
            const size_t first = t < rows ? s.d_state : 0, second = t + 1 < rows ? s.d_state : 0;
            const Word pair =
                join_halves(load_within(row(s.B, s.ldbc, start + (first ? t : 0)), n, first),
                            load_within(row(s.B, s.ldbc, start + (second ? t + 1 : 0)), n, second));
            store_word(words(w.B) + t / 2 * w.N + n, pair);
        }
        transpose_words(words(w.B) + n, w.N, words(w.Bt) + n * kChunk / 2, kChunk / 2);
    }
}

void mix_positions(const Scan &s, const Work &w, size_t head, size_t start, size_t rows,
                   Decay &decay) {
    decay_positions(s, head, start, rows, decay, [&](size_t t, const Vec *between) {
        store_halves(w.mixed + t * kChunk, between[0] * load(w.CB + t * kChunk),
                     between[1] * load(w.CB + t * kChunk + kLanes));
    });
}

void weigh_inputs(const Scan &s, const Work &w, size_t head, size_t start, size_t rows,
                  const Decay &decay) {
    for (size_t t = 0; t < rows; t += 2) {
        const float *x = row(s.x, s.ldx, start + t) + head * s.headdim;
        const size_t second = t + 1 < rows;  // else zeros go with the last position
        const float dt[2] = {row(s.dt, s.lddt, start + t)[head],
                             second ? row(s.dt, s.lddt, start + t + 1)[head] : 0.0f};
        for (size_t p = 0; p < w.padded; p += kLanes) {
            const Vec a = fill(dt[0]) * load_within(x, p, s.headdim);
            const Vec b = fill(dt[1]) * load_within(x + (second ? s.ldx : 0), p,
                                                    second ? s.headdim : 0);
            const size_t at = (p / kPanel * (kChunk / 2) + t / 2) * kPanel + p % kPanel;
            store_word(words(w.input) + at, join_halves(a, b));
            store_word(words(w.kept) + at, join_halves(a * fill(decay.to_end[t]),
                                                       b * fill(second ? decay.to_end[t + 1] : 0)));
        }
    }
}

void narrow_state(const Scan &s, const Work &w, const float *state) {
    for (size_t n = 0; n < s.d_state; n += 2) {
        const float *cells = state + n * w.padded;
        for (size_t p = 0; p < w.padded; p += kLanes) {
            const Vec second = n + 1 < s.d_state ? load(cells + w.padded + p) : Vec{};
            const size_t at = (p / kPanel * (w.N / 2) + n / 2) * kPanel + p % kPanel;
            store_word(words(w.state) + at, join_halves(load(cells + p), second));
        }
    }
}

// out[t] = decayed C[t] state + sum over s <= t of mixed[t, s] dt x[s], for R rows of a panel.
template <int R>
__attribute__((noinline)) void sum_inputs(const Scan &s, const Work &w, size_t t, size_t panel,
                                          const Decay &decay, bool fresh, float *out,
                                          ptrdiff_t ldo) {
    Tile<R> tile{};
    if (!fresh) {
        multiply_pairs(tile, w.C + t * w.N, static_cast<ptrdiff_t>(w.N),
                       w.state + panel * w.N * kPanel, (s.d_state + 1) / 2);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const Vec from_start = fill(decay.from_start[t + static_cast<size_t>(r)]);
            tile.v[r][0] *= from_start;
            tile.v[r][1] *= from_start;
        }
    }
    multiply_pairs(tile, w.mixed + t * kChunk, kChunk, w.input + panel * kChunk * kPanel,
                   (t + R + 1) / 2);
    put_tile(out, ldo, tile, kPanel, false);
}

// y = D x and what comes from other positions.
void write_outputs(const Scan &s, const Work &w, size_t head, size_t start, size_t rows,
                   const Decay &decay, bool fresh) {
    float sums[kTileRows * kPanel];
    const Vec D = fill(s.D[head]);
    for (size_t p = 0; p < s.headdim; p += kPanel) {
        const size_t columns = smaller(s.headdim - p, kPanel);
        for_row_blocks(rows, [&](size_t t, auto block) {
            constexpr int R = decltype(block)::value;
            sum_inputs<R>(s, w, t, p / kPanel, decay, fresh, sums, kPanel);
            for (size_t r = 0; r < R; ++r) {
                const size_t at = head * s.headdim + p;
                const float *x = row(s.x, s.ldx, start + t + r) + at;
                float *y = row(s.y, s.ldy, start + t + r) + at;
                for_lanes(columns, [&](size_t c, size_t count) {
                    store(y + c, load(sums + r * kPanel + c) + D * load(x + c, count), count);
                });
            }
        });
    }
}

// state[n] = decayed state[n] + sum over t of B[t, n] kept[t]. A fresh state was zero. Asks memory
// for the state of the next head.
template <int R>
__attribute__((noinline)) void update_state(const Scan &s, const Work &w, size_t n, size_t p,
                                            size_t rows, bool fresh, float whole_decay,
                                            float *state) {
    const ptrdiff_t padded = static_cast<ptrdiff_t>(w.padded);
    float *cells = state + n * w.padded + p;
    const float *next = cells + s.d_state * w.padded;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r, next += padded) {
        __builtin_prefetch(next);
        __builtin_prefetch(next + kLanes);
    }
    Tile<R> tile{};
    if (!fresh) {
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            tile.v[r][0] = load(cells + r * padded) * fill(whole_decay);
            tile.v[r][1] = load(cells + r * padded + kLanes) * fill(whole_decay);
        }
    }
    multiply_pairs(tile, w.Bt + n * kChunk, kChunk, w.kept + p * kChunk, (rows + 1) / 2);
    put_tile(cells, padded, tile, kPanel, false);
}

}  // namespace

void ssd_scan_avx512bf16(const Scan &s) {
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
            if (!fresh) narrow_state(s, w, state);
            write_outputs(s, w, head, start, rows, decay, fresh);
            if (over) continue;
            for (size_t p = 0; p < w.padded; p += kPanel) {
                for_row_blocks(s.d_state, [&](size_t n, auto block) {
                    update_state<decltype(block)::value>(s, w, n, p, rows, fresh,
                                                         decay.from_start[rows - 1], state);
                });
            }
        }
    }
}

}  // namespace adaptive_search
