// Wishes about mapped files, for an operating system that takes them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace adaptive_search {

namespace paging {

inline void advise(const void* data, std::size_t size, int advice) {
#if defined(__linux__)
    static const std::uintptr_t page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t begin = address / page * page;
    madvise(reinterpret_cast<void*>(begin), address + size - begin, advice);
#else
    (void)data, (void)size, (void)advice;
#endif
}

}  // namespace paging

// Some of what is there will be read, here and there: reading ahead would be a waste.
inline void will_read_at_random(const void* data, std::size_t size) {
#if defined(__linux__)
    paging::advise(data, size, MADV_RANDOM);
#else
    (void)data, (void)size;
#endif
}

// All of it will be read soon. Gives back at once, so that a disk can fetch many such pieces at a
// time.
inline void will_read(const void* data, std::size_t size) {
#if defined(__linux__)
    paging::advise(data, size, MADV_WILLNEED);
#else
    (void)data, (void)size;
#endif
}

// Reads of a large array here and there, each of whose pages is asked for once ahead of its use:
// many can then come from a disk at a time. What the system took back is read page by page.
class ScatteredReads {
   public:
    ScatteredReads(const void* data, std::size_t size)
        : data_(static_cast<const char*>(data)),
          asked_(new std::atomic<std::uint64_t>[size / (kPage * 64) + 1]()) {}

    // For `size` bytes from `begin` on.
    void ask(std::size_t begin, std::size_t size) const {
        for (std::size_t page = begin / kPage; page <= (begin + size - 1) / kPage; ++page) {
            std::atomic<std::uint64_t>& word = asked_[page / 64];
            const std::uint64_t bit = std::uint64_t{1} << page % 64;
            if (word.load(std::memory_order_relaxed) & bit) continue;
            word.fetch_or(bit, std::memory_order_relaxed);
            will_read(data_ + begin, size);
        }
    }

   private:
    static constexpr std::size_t kPage = 4096;

    const char* data_;
    std::unique_ptr<std::atomic<std::uint64_t>[]> asked_;
};

}  // namespace adaptive_search
