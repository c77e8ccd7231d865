// Threads of one call and the memory they work in.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace adaptive_search {

// Runs task(i, worker) for every i < count on up to `threads` workers, the caller's thread
// among them; worker < threads.
// Plain threads: an OpenMP runtime beside PyTorch's would spin against it for the cores.
template <class Task>
void run_tasks(std::size_t count, std::size_t threads, const Task &task) {
    std::atomic<std::size_t> next{0};
    const auto work = [&](std::size_t worker) {
        for (std::size_t i = next++; i < count; i = next++) task(i, worker);
    };
    std::vector<std::thread> others;
    try {
        for (std::size_t i = 1; i < std::min(count, threads); ++i) others.emplace_back(work, i);
    } catch (const std::system_error &) {
        // The system has no more threads; those there are do the work.
    }
    work(0);
    for (std::thread &thread : others) thread.join();
}

// The same over ranges [begin, end) of n items, `size` at a time.
template <class Task>
void run_ranges(std::size_t n, std::size_t size, std::size_t threads, const Task &task) {
    run_tasks((n + size - 1) / size, threads, [&](std::size_t i, std::size_t worker) {
        task(i * size, std::min(n, (i + 1) * size), worker);
    });
}

// Memory for each worker, from a cache line's start.
class Scratch {
   public:
    Scratch(std::size_t workers, std::size_t floats)
        : stride_((floats + kLine - 1) / kLine * kLine),
          data_(static_cast<float *>(
              ::operator new(workers * stride_ * sizeof(float), kAlign))) {}
    float *of(std::size_t worker) const { return data_.get() + worker * stride_; }

   private:
    static constexpr std::align_val_t kAlign{64};
    static constexpr std::size_t kLine = 16;
    struct Free {
        void operator()(float *p) const { ::operator delete(p, kAlign); }
    };
    std::size_t stride_;
    std::unique_ptr<float, Free> data_;
};

}  // namespace adaptive_search
