// The NEON level against the reference level, for machines that can only emulate it; .ci/cross
// builds and runs this. Where NEON is at home, the tests in Python compare all levels.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "codes.h"
#include "ops.h"
#include "packed_linear.h"

using namespace adaptive_search;

namespace {

using Floats = std::vector<float>;

std::mt19937 generator(7);
int failures = 0;

Floats draw(std::size_t count, float mean = 0.0f) {
    std::normal_distribution<float> normal(mean, 1.0f);
    Floats values(count);
    for (float &value : values) value = normal(generator);
    return values;
}

std::ptrdiff_t stride(std::size_t n) { return static_cast<std::ptrdiff_t>(n); }

void compare(const char *what, const Floats &got, const Floats &want, float tolerance) {
    float peak = 0.0f, error = 0.0f;
    for (std::size_t i = 0; i < want.size(); ++i) {
        peak = std::max(peak, std::abs(want[i]));
        error = std::max(error, std::abs(got[i] - want[i]));
    }
    const bool holds = error <= tolerance * peak;  // false for NaN
    if (!holds) ++failures;
    std::printf("%-28s %.1e of %.1e %s\n", what, double{error}, double{peak}, holds ? "" : "FAILS");
}

Floats linear(const Products &products, const Floats &x, const Floats &weight, std::size_t rows,
              std::size_t outputs, std::size_t inputs) {
    Arena arena;
    const PackedLinear packed(products, arena, {weight.data()}, outputs, inputs);
    const Buffer space(operand_space(rows, inputs));
    Floats out(rows * outputs);
    packed.apply(products.plain({x.data(), stride(inputs)}, rows, inputs, space.data()), outputs,
                 out.data(), stride(outputs));
    return out;
}

void compare_linear() {
    for (std::size_t rows : {1, 5, 12, 25}) {
        const std::size_t outputs = 2 * rows + 1, inputs = 3 * rows + 2;
        const Floats x = draw(rows * inputs), weight = draw(outputs * inputs);
        const auto run = [&](const Products &p) { return linear(p, x, weight, rows, outputs, inputs); };
        for (Precision precision : {Precision::fp32, Precision::bf16}) {
            compare("linear, floats", run(float_products_neon(precision)),
                    run(float_products_reference(precision)), 1e-5f);
        }
        // The codes are equal but where a value lies between two.
        compare("linear, int8", run(int8_neon()), run(int8_reference()), 1e-2f);
        compare("linear, int8 dot product", run(int8_neon_dotprod()), run(int8_neon()), 0.0f);
    }
}

Floats scan(const Ops &ops, std::size_t rows, bool ends) {
    const std::size_t heads = 3, headdim = 10, d_state = 12, width = heads * headdim;
    generator.seed(11);
    const Floats x = draw(rows * width), B = draw(2 * rows * d_state), D = draw(heads);
    Floats dt = draw(rows * heads, -2.0f), A = draw(heads);
    for (float &value : dt) value = std::exp(value);
    for (float &value : A) value = -std::exp(value);
    const std::size_t padded = round_up(headdim, ops.panel);
    const Buffer state(heads * d_state * padded), scratch(scan_scratch(d_state, padded));
    std::fill_n(state.data(), state.size(), 1e9f);  // which a text that begins does not read
    Floats y(rows * width);
    ops.ssd_scan_f32({rows, heads, headdim, d_state, x.data(), stride(width), dt.data(),
                      stride(heads), B.data(), B.data() + d_state, stride(2 * d_state), A.data(),
                      D.data(), state.data(), y.data(), stride(width), scratch.data(), true, ends});
    if (ends) return y;
    for (std::size_t n = 0; n < heads * d_state; ++n) {
        y.insert(y.end(), state.data() + n * padded, state.data() + n * padded + headdim);
    }
    return y;
}

Floats convolve(const Ops &ops, std::size_t rows) {
    const std::size_t channels = 21, d_conv = 4;
    generator.seed(3);
    Floats x = draw(rows * channels);
    const Floats weight = draw(d_conv * channels), bias = draw(channels);
    const Floats history = draw((d_conv - 1) * channels);
    ops.causal_conv1d_silu_f32(x.data(), stride(channels), rows, channels, weight.data(),
                               stride(channels), bias.data(), d_conv, history.data(),
                               stride(channels), x.data(), stride(channels));
    return x;
}

// An int8 operand's rows, or those of floats.
Floats values_of(const Operand &rows) {
    Floats values;
    for (std::size_t t = 0; t < rows.rows; ++t) {
        const std::ptrdiff_t at = rows.stride * stride(t);
        for (std::size_t c = 0; c < rows.inputs; ++c) {
            values.push_back(rows.scales
                                 ? rows.scales[t] * static_cast<const std::int8_t *>(rows.data)[at + stride(c)]
                                 : static_cast<const float *>(rows.data)[at + stride(c)]);
        }
    }
    return values;
}

Floats norms_and_gates(const Products &products, std::size_t rows) {
    const std::size_t n = 21;
    generator.seed(5);
    const Floats x = draw(rows * n), z = draw(rows * n), weight = draw(n);
    const Buffer space(operand_space(rows, n));
    const float *w = weight.data();
    Floats all = values_of(products.norm({x.data(), stride(n), w, 1e-5f}, rows, n, space.data()));
    const auto add = [&all](const Floats &more) { all.insert(all.end(), more.begin(), more.end()); };
    Floats y = x;
    add(values_of(products.gated({y.data(), stride(n), z.data(), stride(n), w, 1e-5f}, rows, n,
                                 space.data())));
    y = x;
    add(values_of(products.swiglu({y.data(), stride(n), z.data(), stride(n)}, rows, n,
                                  space.data())));
    return all;
}

Floats softplus(const Ops &ops, std::size_t rows) {
    const std::size_t n = 21;
    generator.seed(6);
    Floats x = draw(rows * n);
    const Floats bias = draw(n);
    ops.softplus_f32(x.data(), stride(n), rows, n, bias.data());
    return x;
}

Floats pool(const Ops &ops, std::size_t rows) {
    const std::size_t bands = 3, d_model = 21;
    generator.seed(9);
    const Floats h = draw(rows * d_model);
    Floats logits = draw(rows * bands), total(bands), pooled(bands * d_model);
    Floats peak(bands, -std::numeric_limits<float>::infinity());
    ops.softmax_pool_f32(h.data(), stride(d_model), rows, logits.data(), stride(bands),
                         {bands, d_model, peak.data(), total.data(), pooled.data()});
    pooled.insert(pooled.end(), total.begin(), total.end());
    return pooled;
}

// Scores of codes are exact, so that every level finds the same.
void compare_codes(const char *what, ScanCodes neon, ScanCodes reference, std::int64_t bits,
                   std::int64_t count, std::int64_t lines) {
    std::uniform_int_distribution<int> byte(0, 255), weight(-127, 127);
    std::vector<std::uint8_t> blocks(static_cast<std::size_t>(count * lines * kLineBytes));
    std::vector<std::int8_t> query(static_cast<std::size_t>(lines * line_dims(bits)));
    for (auto &code : blocks) code = static_cast<std::uint8_t>(byte(generator));
    for (auto &code : query) code = static_cast<std::int8_t>(weight(generator));
    std::size_t differ = 0;
    for (std::int32_t least : {std::numeric_limits<std::int32_t>::min(), -1000, 0, 20'000}) {
        const auto found_by = [&](ScanCodes scan) {
            const std::size_t rows = static_cast<std::size_t>(count * kBlockRows);
            std::vector<std::int32_t> scores(rows), places(rows);
            const std::int64_t found = scan(blocks.data(), count, lines, query.data(), least,
                                            blocks.data(), scores.data(), places.data());
            scores.resize(static_cast<std::size_t>(found));
            places.resize(static_cast<std::size_t>(found));
            scores.insert(scores.end(), places.begin(), places.end());
            return scores;
        };
        differ += found_by(neon) != found_by(reference);
    }
    if (differ != 0) ++failures;
    std::printf("%-28s %s\n", what, differ == 0 ? "" : "FAILS");
}

}  // namespace

int main() {
    const Ops &neon = ops_neon(), &reference = ops_reference();
    compare_linear();
    for (std::int64_t lines : {1, 2, 7, 32, 200}) {
        compare_codes("codes, 8 bits", scan_bytes_neon, scan_bytes_reference, 8, 5, lines);
        compare_codes("codes, 4 bits", scan_nibbles_neon, scan_nibbles_reference, 4, 5, lines);
    }
    for (std::size_t rows : {1, 6, 31, 32, 33, 97}) {
        for (bool ends : {false, true}) {
            compare("scan", scan(neon, rows, ends), scan(reference, rows, ends), 1e-5f);
        }
        compare("convolution", convolve(neon, rows), convolve(reference, rows), 1e-5f);
        compare("softplus", softplus(neon, rows), softplus(reference, rows), 1e-5f);
        for (Precision precision : {Precision::fp32, Precision::bf16}) {
            // In bf16 some values are rounded the other way.
            compare("norms and gates", norms_and_gates(float_products_neon(precision), rows),
                    norms_and_gates(float_products_reference(precision), rows),
                    precision == Precision::fp32 ? 1e-5f : 5e-3f);
        }
        compare("norms and gates, int8", norms_and_gates(int8_neon(), rows),
                norms_and_gates(int8_reference(), rows), 1e-2f);
        compare("pooling", pool(neon, rows), pool(reference, rows), 1e-5f);
    }
    return failures == 0 ? 0 : 1;
}
