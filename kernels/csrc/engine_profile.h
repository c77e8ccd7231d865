// Where the time of a call goes.
#pragma once

#include <array>
#include <cstddef>
#include <ctime>

namespace adaptive_search {

// What the engine does with a tile, in this order. Norms and gates make the operands of the
// product that follows.
enum class Stage {
    embedding, norm, in_proj, convolution, softplus, scan, gated_norm, out_proj, gate_up, swiglu,
    down, pooling, heads
};
constexpr std::array<const char *, 13> kStages{
    "embedding", "norm",    "in_proj", "convolution", "softplus", "scan", "gated_norm",
    "out_proj",  "gate_up", "swiglu",  "down",        "pooling",  "heads"};

// Seconds of processor time that one thread has spent in each stage.
struct Profile {
    std::array<double, kStages.size()> seconds{};

    void start() { last_ = now(); }
    void end(Stage stage) {
        const double time = now();
        seconds[static_cast<std::size_t>(stage)] += time - last_;
        last_ = time;
    }

  private:
    static double now() {
        timespec time{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    }
    double last_ = 0.0;
};

}  // namespace adaptive_search
