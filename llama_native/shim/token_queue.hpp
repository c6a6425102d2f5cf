// Tokens between two threads, neither of which needs Python's lock for it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "guard.hpp"

namespace lucid {

using monotonic = std::chrono::steady_clock;

// Seconds of the clock that times are given in.
inline double seconds_of(monotonic::time_point time) {
    return std::chrono::duration<double>(time.time_since_epoch()).count();
}

// `seconds` from now, or a time that never comes.
monotonic::time_point deadline(double seconds);

struct Relay;

}  // namespace lucid

struct lucid_token_queue {
    std::mutex lock;
    std::condition_variable arrived;
    std::deque<lucid_token> items;
    lucid::Relay * relay = nullptr;  // of the thread that waits, if tokens need not wake it up

    // Whether there is an item before `until`; `held` holds the lock.
    bool wait(std::unique_lock<std::mutex> & held, lucid::monotonic::time_point until) {
        return arrived.wait_until(held, until, [this] { return !items.empty(); });
    }
};
