// The texts of tokens on their way to a client's socket.
#pragma once

#include <string>

#include "token_queue.hpp"

namespace lucid {

// One call of lucid_relay.
struct Relay {
    const lucid_token_texts & texts;
    const lucid_relay_target & target;
    int32_t capacity;
    double * times;
    int32_t * n;
    std::string out = {};  // what is being written
    size_t written = 0;    // of it

    // Whether the token is for a relay, and there is room for its times.
    bool takes(int32_t token) const;

    // Not one of the reasons to come back: all is written.
    static constexpr int32_t SENT = -1;

    // Writes what the socket takes at once of a token's text, and notes the times. Returns SENT, LUCID_RELAY_BEHIND if
    // there is a rest, or LUCID_RELAY_BROKEN.
    int32_t write(int32_t token);

    // Writes the rest before `until`. Returns the same.
    int32_t finish(monotonic::time_point until);

private:
    int32_t send_some();
};

}  // namespace lucid
