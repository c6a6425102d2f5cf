// Decoding and sampling: the hot path. One C call per step, so the GIL is released once.

#include <algorithm>
#include <chrono>
#include <climits>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "../kernels/planning.hpp"
#include "guard.hpp"
#include "maximum.hpp"

using lucid::guarded;

namespace {

using std::chrono::steady_clock;

double seconds_between(steady_clock::time_point from, steady_clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
}

template <typename... Args> int32_t bad_batch(const char * format, Args... args) {
    char text[256];
    std::snprintf(text, sizeof text, format, args...);
    lucid::set_failure(LUCID_BAD_ARGUMENT, text);
    return LUCID_CODE_BAD_BATCH;
}

// Everything that llama.cpp would assert on, or read out of bounds for. Positions it checks by itself (code -1).
int32_t check_batch(const llama_batch & batch, const lucid_limits & limits) {
    const int32_t n = batch.n_tokens;
    if (n < 1) {
        return bad_batch("%s", "the batch is empty");
    }
    if (n > limits.n_tokens_max) {
        return bad_batch("the batch has %d tokens, this context takes at most %d", n, limits.n_tokens_max);
    }
    int32_t n_outputs = limits.all_outputs ? n : 0;
    for (int32_t i = 0; i < n; ++i) {
        if (batch.token[i] < 0 || batch.token[i] >= limits.n_vocab) {
            return bad_batch("token %d at index %d is outside the vocabulary of %d", batch.token[i], i, limits.n_vocab);
        }
        if (batch.pos[i] < 0 || batch.pos[i] == INT32_MAX) {
            return bad_batch("position %d at index %d is out of range", batch.pos[i], i);
        }
        const int32_t n_seq = batch.n_seq_id[i];
        if (n_seq < 1 || n_seq > limits.n_seq_per_token) {
            return bad_batch("the token at index %d belongs to %d sequences, allowed are 1 to %d", i, n_seq,
                             limits.n_seq_per_token);
        }
        for (int32_t k = 0; k < n_seq; ++k) {
            const llama_seq_id seq = batch.seq_id[i][k];
            if (seq < 0 || seq >= limits.n_seq_max) {
                return bad_batch("sequence %d at index %d is outside 0..%d", seq, i, limits.n_seq_max - 1);
            }
        }
        n_outputs += !limits.all_outputs && batch.logits[i] != 0;
    }
    if (n_outputs > limits.n_outputs_max) {
        return bad_batch("the batch asks for %d outputs, this context gives at most %d", n_outputs, limits.n_outputs_max);
    }
    return 0;
}

// Bit t of a mask says whether token t may be chosen: bit t % 32 of word t / 32. Calls f with each allowed token.
template <typename F> void for_each_allowed(const uint32_t * mask, int32_t n_vocab, F f) {
    for (int32_t base = 0; base < n_vocab; base += 32) {
        for (uint32_t word = mask[base / 32]; word != 0; word &= word - 1) {
            const int32_t token = base + __builtin_ctz(word);
            if (token >= n_vocab) {
                return;
            }
            f(token);
        }
    }
}

// Index of the largest of n numbers, the first of equals. -1 if one is NaN or +inf, or all are -inf.
int32_t argmax(const float * x, int32_t n) {
    constexpr int32_t BLOCK = 1024;  // only the block that holds the maximum is searched number by number
    float top = -INFINITY;
    int32_t where = -1;
    for (int32_t start = 0; start < n; start += BLOCK) {
        const float value = lucid::maximum(x + start, std::min(BLOCK, n - start));
        if (std::isnan(value)) {
            return -1;
        }
        if (value > top) {
            top = value;
            where = start;
        }
    }
    return where < 0 ? -1 : (int32_t) (std::find(x + where, x + n, top) - x);
}

struct sampling_failed : std::exception {
    explicit sampling_failed(std::string text) : text(std::move(text)) {}
    const char * what() const noexcept override { return text.c_str(); }
    std::string text;
};

constexpr const char * NOT_FINITE = "the logits are not finite";
constexpr const char * NONE_ALLOWED = "no token is allowed";

// Like argmax, among the tokens that the mask allows.
int32_t masked_argmax(const float * logits, int32_t n_vocab, const uint32_t * mask) {
    float top = -INFINITY;
    int32_t where = -1;
    bool finite = true;
    for_each_allowed(mask, n_vocab, [&](int32_t token) {
        finite &= logits[token] < INFINITY;
        if (logits[token] > top) {
            top = logits[token];
            where = token;
        }
    });
    if (!finite) {
        throw sampling_failed(NOT_FINITE);
    }
    if (where < 0) {
        throw sampling_failed(NONE_ALLOWED);
    }
    return where;
}

// Runs the chain over the logits of the tokens that the mask allows (all, without one) and lets it accept its choice.
int32_t sample(llama_sampler * sampler, const float * logits, int32_t n_vocab, const uint32_t * mask = nullptr) {
    if (logits == nullptr) {
        throw sampling_failed("this row has no logits");
    }
    if (sampler == nullptr && mask != nullptr) {
        return masked_argmax(logits, n_vocab, mask);
    }
    if (sampler == nullptr) {
        const int32_t token = argmax(logits, n_vocab);
        if (token < 0) {
            throw sampling_failed(NOT_FINITE);
        }
        return token;
    }
    static thread_local std::vector<llama_token_data> candidates;
    candidates.resize(n_vocab);
    bool finite = true;
    size_t n = 0;
    const auto add = [&](int32_t token) {
        candidates[n++] = llama_token_data{token, logits[token], 0.0f};
        finite &= logits[token] < INFINITY;  // false for NaN too; -inf is fine, it excludes a token
    };
    if (mask == nullptr) {
        for (int32_t token = 0; token < n_vocab; ++token) {
            add(token);
        }
    } else {
        for_each_allowed(mask, n_vocab, add);
    }
    if (!finite) {
        throw sampling_failed(NOT_FINITE);  // sorting NaN is undefined behaviour
    }
    if (n == 0) {
        throw sampling_failed(NONE_ALLOWED);
    }
    if (n == 1) {  // no choice; Mirostat would divide by zero
        llama_sampler_accept(sampler, candidates[0].id);
        return candidates[0].id;
    }
    llama_token_data_array array = {candidates.data(), n, -1, false};
    llama_sampler_apply(sampler, &array);
    if (array.selected < 0 && array.size > 0) {
        throw sampling_failed("the sampler chain selects no token: it must end in greedy, dist, mirostat or adaptive_p");
    }
    if (array.size == 0 || array.selected >= (int64_t) array.size) {
        throw sampling_failed("no candidate is left");
    }
    const llama_token_data & choice = array.data[array.selected];
    if (choice.logit == -INFINITY || choice.id < 0 || choice.id >= n_vocab) {
        throw sampling_failed(NONE_ALLOWED);
    }
    const llama_token token = choice.id;
    llama_sampler_accept(sampler, token);
    return token;
}

// One message per row of the last step on this thread; empty where the row got its token.
thread_local std::vector<std::string> row_messages;

int32_t run(llama_context * ctx, const llama_batch * batch, const lucid_limits * limits, bool encode) {
    const int32_t code = check_batch(*batch, *limits);
    if (code != 0) {
        return code;
    }
    lucid::want_kernels(limits->kernels);
    return guarded<int32_t>(LUCID_CODE_GUARDED,
                            [&] { return encode ? llama_encode(ctx, *batch) : llama_decode(ctx, *batch); });
}

}  // namespace

extern "C" {

int32_t lucid_decode(llama_context * ctx, const llama_batch * batch, const lucid_limits * limits) {
    return run(ctx, batch, limits, false);
}

int32_t lucid_encode(llama_context * ctx, const llama_batch * batch, const lucid_limits * limits) {
    return run(ctx, batch, limits, true);
}

// Decodes the batch, then samples one token for each of `rows` (indices into the batch). A NULL sampler takes the
// largest logit, a NULL mask allows all tokens. seconds[0] is the decode, seconds[1] the sampling. A row that cannot be sampled gets token -1 and a
// message; the others are not affected.
int32_t lucid_decode_sample(llama_context * ctx, const llama_batch * batch, const lucid_limits * limits,
                            const int32_t * rows, llama_sampler ** samplers, const uint32_t ** masks, int32_t n_rows,
                            int32_t * tokens, double * seconds) {
    for (int32_t k = 0; k < n_rows; ++k) {
        if (rows[k] < 0 || rows[k] >= batch->n_tokens) {
            return bad_batch("row %d is outside the batch of %d tokens", rows[k], batch->n_tokens);
        }
        if (!limits->all_outputs && batch->logits[rows[k]] == 0) {
            return bad_batch("row %d of the batch has no output flag, so it has no logits", rows[k]);
        }
    }
    const auto start = steady_clock::now();
    int32_t code = run(ctx, batch, limits, false);
    if (code != 0) {
        return code;
    }
    const bool finished = lucid_synchronize(ctx);  // on a GPU llama_decode returns before the work is done
    const auto decoded = steady_clock::now();
    seconds[0] = seconds_between(start, decoded);
    seconds[1] = 0.0;
    if (!finished) {
        return LUCID_CODE_GUARDED;
    }
    if (n_rows == 0) {
        return 0;
    }
    row_messages.assign(n_rows, std::string());
    for (int32_t k = 0; k < n_rows; ++k) {
        tokens[k] = guarded<int32_t>(
            -1, [&] { return sample(samplers[k], llama_get_logits_ith(ctx, rows[k]), limits->n_vocab, masks[k]); });
        if (tokens[k] < 0) {
            row_messages[k] = lucid_message();
        }
    }
    seconds[1] = seconds_between(decoded, steady_clock::now());
    return 0;
}

const char * lucid_row_message(int32_t k) {
    return k >= 0 && (size_t) k < row_messages.size() ? row_messages[k].c_str() : "";
}

int32_t lucid_sample(llama_context * ctx, llama_sampler * sampler, int32_t row, int32_t n_vocab) {
    return guarded<int32_t>(-1, [&] { return sample(sampler, llama_get_logits_ith(ctx, row), n_vocab); });
}

int32_t lucid_sample_logits(llama_sampler * sampler, const float * logits, int32_t n_vocab) {
    return guarded<int32_t>(-1, [&] { return sample(sampler, logits, n_vocab); });
}

int32_t lucid_argmax(const float * logits, int32_t n) { return argmax(logits, n); }

// The log probability of `token` and the k likeliest tokens, best first. NaN if the logits are not finite.
double lucid_top_logprobs(const float * logits, int32_t n, int32_t token, int32_t k, int32_t * ids, float * logprobs) {
    return guarded<double>(NAN, [&]() -> double {
        const int32_t best = argmax(logits, n);
        if (best < 0) {
            lucid::set_failure(LUCID_EXCEPTION, NOT_FINITE);
            return NAN;
        }
        double sum = 0.0;
        for (int32_t i = 0; i < n; ++i) {
            sum += std::exp(logits[i] - logits[best]);
        }
        const double log_sum = logits[best] + std::log(sum);
        const auto better = [logits](int32_t a, int32_t b) {
            return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
        };
        std::vector<int32_t> heap;  // the k best so far, the worst of them in front
        heap.reserve(k);
        for (int32_t i = 0; i < n && k > 0; ++i) {
            if ((int32_t) heap.size() < k) {
                heap.push_back(i);
                std::push_heap(heap.begin(), heap.end(), better);
            } else if (better(i, heap.front())) {
                std::pop_heap(heap.begin(), heap.end(), better);
                heap.back() = i;
                std::push_heap(heap.begin(), heap.end(), better);
            }
        }
        std::sort_heap(heap.begin(), heap.end(), better);
        for (size_t i = 0; i < heap.size(); ++i) {
            ids[i] = heap[i];
            logprobs[i] = (float) (logits[heap[i]] - log_sum);
        }
        return logits[token] - log_sum;
    });
}

}  // extern "C"
