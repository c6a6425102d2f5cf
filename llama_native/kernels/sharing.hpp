// How the threads of an operation share its parts.
//
// Each thread goes through a range of its own from front to back, so that what it reads from memory is one stream, which
// processors fetch ahead; parts that threads take from one counter are turn and turn about, and no thread's next one is
// foreseen. Whoever is done takes parts of the others, since one may share its core with other work.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

namespace lucid {

class sharing {
public:
    static size_t bytes(int64_t threads) { return size_t(threads + 1) * cache_line; }

    // `memory` is the same for all threads, `bytes(threads)` long.
    sharing(void * memory, int64_t parts, int64_t threads) : parts(parts), threads(threads) {
        const auto address = reinterpret_cast<uintptr_t>(memory);
        lines = reinterpret_cast<char *>((address + cache_line - 1) / cache_line * cache_line);
    }

    // By one thread, before a barrier.
    void begin() {
        for (int64_t thread = 0; thread < threads; thread++) {
            new (lines + thread * int64_t(cache_line)) std::atomic<int64_t>(first(thread));
        }
    }

    // By all threads, behind it: calls `compute` with parts until none is left.
    template <typename Compute>
    void take(int64_t thread, const Compute & compute) {
        for (int64_t i = 0; i < threads; i++) {
            const int64_t owner = (thread + i) % threads, end = first(owner + 1);
            for (int64_t part; (part = next(owner).fetch_add(1, std::memory_order_relaxed)) < end;) {
                compute(part);
            }
        }
    }

private:
    static constexpr size_t cache_line = 64;

    int64_t first(int64_t thread) const { return parts * thread / threads; }

    std::atomic<int64_t> & next(int64_t thread) {
        return *std::launder(reinterpret_cast<std::atomic<int64_t> *>(lines + thread * int64_t(cache_line)));
    }

    int64_t parts, threads;
    char * lines;
};

}  // namespace lucid
