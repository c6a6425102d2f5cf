// From the queue of tokens to a client's socket without Python: what a plain stream needs for nearly every token.
//
// The thread that puts a token writes it, as far as the socket takes it at once: waking up another thread for it costs
// more than the write. The thread that relays does what is left: tokens that were there before it, a client that reads
// slowly, and going back to Python.

#include "relay.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>

namespace lucid {

namespace {

// Appends a number in hexadecimal; printf's code would be out of the processor's caches after every decode.
void append_hex(std::string & out, uint64_t number) {
    int shift = 60;
    while (shift > 0 && number >> shift == 0) {
        shift -= 4;
    }
    for (; shift >= 0; shift -= 4) {
        out.push_back("0123456789ABCDEF"[number >> shift & 15]);
    }
}

}  // namespace

bool Relay::takes(int32_t token) const {
    return token >= 0 && token < texts.n_tokens && texts.sizes[token] >= 0 && *n < capacity;
}

int32_t Relay::write(int32_t token) {
    double * const time = times + 3 * (size_t) *n;
    time[0] = time[1] = time[2] = seconds_of(monotonic::now());
    const int32_t size = texts.sizes[token];
    if (size == 0) {  // a token without text brings nothing to write
        ++*n;
        return SENT;
    }
    out.clear();
    written = 0;
    if (target.chunked) {  // RFC 9112, 7.1
        append_hex(out, (uint64_t) target.before_size + (uint64_t) size + (uint64_t) target.after_size);
        out.append("\r\n");
    }
    out.append(target.before, (size_t) target.before_size);
    out.append(texts.bytes + texts.offsets[token], (size_t) size);
    out.append(target.after, (size_t) target.after_size);
    if (target.chunked) {
        out.append("\r\n");
    }
    ++*n;
    time[1] = seconds_of(monotonic::now());
    const int32_t code = send_some();
    time[2] = seconds_of(monotonic::now());
    return code;
}

int32_t Relay::finish(monotonic::time_point until) {
    int32_t code;
    while ((code = send_some()) == LUCID_RELAY_BEHIND) {
        const double left = std::chrono::duration<double, std::milli>(until - monotonic::now()).count();
        if (left <= 0) {
            break;
        }
        pollfd wanted = {target.socket, POLLOUT, 0};
        poll(&wanted, 1, (int) std::min(std::ceil(left), (double) INT_MAX));
    }
    times[3 * (size_t) (*n - 1) + 2] = seconds_of(monotonic::now());
    return code;
}

int32_t Relay::send_some() {
    while (written < out.size()) {
        const ssize_t sent = send(target.socket, out.data() + written, out.size() - written, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            written += (size_t) sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return LUCID_RELAY_BEHIND;
        } else if (errno != EINTR) {
            return LUCID_RELAY_BROKEN;
        }
    }
    return SENT;
}

namespace {

// Waits for an item, and meanwhile leaves it to those who put tokens to write them; `held` holds the lock. Whether one
// came before `end`.
bool wait(lucid_token_queue & queue, std::unique_lock<std::mutex> & held, Relay & relay, monotonic::time_point end) {
    struct Lent {
        lucid_token_queue & queue;
        ~Lent() { queue.relay = nullptr; }
    } lent = {queue};
    queue.relay = &relay;
    return queue.wait(held, end);
}

int32_t run(lucid_token_queue & queue, Relay & relay, monotonic::time_point end) {
    const double patience = relay.target.patience;
    relay.out.reserve((size_t) relay.target.before_size + (size_t) relay.target.after_size + 64);
    for (;;) {
        if (*relay.n == relay.capacity || (*relay.n > 0 && monotonic::now() >= end)) {
            return LUCID_RELAY_TIME;
        }
        lucid_token item;
        {
            std::unique_lock<std::mutex> held(queue.lock);
            if (queue.items.empty() && !wait(queue, held, relay, end)) {
                return LUCID_RELAY_TIME;
            }
            item = queue.items.front();
            if (item.token != LUCID_TOKEN_REST && !relay.takes(item.token)) {
                return *relay.n == relay.capacity ? LUCID_RELAY_TIME : LUCID_RELAY_LEFT;
            }
            queue.items.pop_front();
        }
        int32_t code = LUCID_RELAY_BEHIND;
        if (item.token != LUCID_TOKEN_REST && seconds_of(monotonic::now()) - item.time > patience) {
            return code;
        }
        if (item.token != LUCID_TOKEN_REST) {
            code = relay.write(item.token);
        }
        if (code == LUCID_RELAY_BEHIND) {
            code = relay.finish(deadline(patience));
        }
        if (code != Relay::SENT) {
            return code;
        }
    }
}

}  // namespace

}  // namespace lucid

extern "C" int32_t lucid_relay(lucid_token_queue * queue, const lucid_token_texts * texts,
                               const lucid_relay_target * target, double seconds, int32_t capacity, double * times,
                               int32_t * n) {
    *n = 0;
    return lucid::guarded<int32_t>(LUCID_RELAY_BROKEN, [&] {
        lucid::Relay relay = {*texts, *target, capacity, times, n};
        return lucid::run(*queue, relay, lucid::deadline(seconds));
    });
}
