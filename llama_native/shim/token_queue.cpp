#include "relay.hpp"

#include <algorithm>
#include <new>

namespace lucid {

monotonic::time_point deadline(double seconds) {
    constexpr double LONGEST = 1e9;  // more would overflow the clock's nanoseconds
    const std::chrono::duration<double> span(std::clamp(seconds, 0.0, LONGEST));
    return monotonic::now() + std::chrono::duration_cast<monotonic::duration>(span);
}

}  // namespace lucid

extern "C" {

lucid_token_queue * lucid_token_queue_new(void) {
    try {
        return new lucid_token_queue;
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void lucid_token_queue_free(lucid_token_queue * queue) { delete queue; }

// Where memory ends while a text is rendered, the token stays in its queue for the thread that waits.
bool lucid_token_queue_put(const lucid_parcel * parcels, int32_t n) {
    const double now = lucid::seconds_of(lucid::monotonic::now());
    try {
        for (const lucid_parcel * parcel = parcels; parcel < parcels + n; ++parcel) {
            lucid_token_queue * const queue = parcel->queue;
            std::unique_lock<std::mutex> held(queue->lock);
            const bool relayed = queue->relay != nullptr && queue->items.empty() && queue->relay->takes(parcel->token);
            queue->items.push_back({parcel->place, parcel->token, now});  // first, as it needs memory
            if (relayed) {
                if (queue->relay->write(parcel->token) == lucid::Relay::SENT) {
                    queue->items.pop_back();
                    continue;
                }
                queue->items.back().token = LUCID_TOKEN_REST;
            }
            held.unlock();
            queue->arrived.notify_one();
        }
    } catch (const std::bad_alloc &) {
        return false;
    }
    return true;
}

bool lucid_token_queue_get(lucid_token_queue * queue, double seconds, lucid_token * taken) {
    std::unique_lock<std::mutex> held(queue->lock);
    if (!queue->wait(held, lucid::deadline(seconds))) {
        return false;
    }
    *taken = queue->items.front();
    queue->items.pop_front();
    return true;
}

}  // extern "C"
