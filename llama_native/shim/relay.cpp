// From the queue of tokens to a client's socket without Python: what a plain stream needs for nearly every token.

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <string>

#include "token_queue.hpp"

namespace {

using lucid::monotonic;

// Sends everything before `until`. LUCID_RELAY_TIME means that it is done.
int32_t send_all(int socket, const char * data, size_t size, monotonic::time_point until) {
    while (size > 0) {
        const ssize_t sent = send(socket, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            data += sent;
            size -= (size_t) sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            const double left = std::chrono::duration<double, std::milli>(until - monotonic::now()).count();
            if (left <= 0) {
                return LUCID_RELAY_BEHIND;
            }
            pollfd wanted = {socket, POLLOUT, 0};
            poll(&wanted, 1, (int) std::min(std::ceil(left), (double) INT_MAX));
        } else if (errno != EINTR) {
            return LUCID_RELAY_GONE;
        }
    }
    return LUCID_RELAY_TIME;
}

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

// What is written for one token. Keeps its memory for the next.
void render(std::string & out, const lucid_relay_target & target, const char * text, int32_t size) {
    out.clear();
    if (target.chunked) {  // RFC 9112, 7.1
        append_hex(out, (uint64_t) target.before_size + (uint64_t) size + (uint64_t) target.after_size);
        out.append("\r\n");
    }
    out.append(target.before, (size_t) target.before_size);
    out.append(text, (size_t) size);
    out.append(target.after, (size_t) target.after_size);
    if (target.chunked) {
        out.append("\r\n");
    }
}

int32_t relay(lucid_token_queue * queue, const lucid_token_texts * texts, const lucid_relay_target * target,
              double seconds, int32_t capacity, double * times, int32_t * n) {
    const auto end = lucid::deadline(seconds);
    std::string out;
    out.reserve((size_t) target->before_size + (size_t) target->after_size + 64);
    for (*n = 0;; ++*n) {
        if (*n > 0 && monotonic::now() >= end) {
            return LUCID_RELAY_TIME;
        }
        lucid_token item;
        int32_t size;
        {
            std::unique_lock<std::mutex> held(queue->lock);
            if (!queue->wait(held, end)) {
                return LUCID_RELAY_TIME;
            }
            item = queue->items.front();
            size = item.token < 0 || item.token >= texts->n_tokens ? -1 : texts->sizes[item.token];
            if (size < 0 || *n == capacity) {
                return LUCID_RELAY_LEFT;
            }
            queue->items.pop_front();
        }
        double * const time = times + 3 * (size_t) *n;
        const auto taken = monotonic::now();
        time[0] = time[1] = time[2] = lucid::seconds_of(taken);
        if (time[0] - item.time > target->patience) {
            ++*n;
            return LUCID_RELAY_BEHIND;
        }
        if (size == 0) {  // a token without text brings nothing to write
            continue;
        }
        render(out, *target, texts->bytes + texts->offsets[item.token], size);
        time[1] = time[2] = lucid::seconds_of(monotonic::now());
        const int32_t code = send_all(target->socket, out.data(), out.size(), lucid::deadline(target->patience));
        time[2] = lucid::seconds_of(monotonic::now());
        if (code != LUCID_RELAY_TIME) {
            ++*n;
            return code;
        }
    }
}

}  // namespace

extern "C" int32_t lucid_relay(lucid_token_queue * queue, const lucid_token_texts * texts,
                               const lucid_relay_target * target, double seconds, int32_t capacity, double * times,
                               int32_t * n) {
    return lucid::guarded<int32_t>(
        LUCID_RELAY_GONE, [&] { return relay(queue, texts, target, seconds, capacity, times, n); });
}
