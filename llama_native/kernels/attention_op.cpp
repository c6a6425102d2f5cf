// ggml's flash attention by our functions: what they take of it, and how threads share it.

#include "attention_op.hpp"

#include <algorithm>
#include <cstring>

#include "attention.hpp"
#include "copies.hpp"
#include "ggml-cpu/ggml-cpu-impl.h"
#include "planning.hpp"
#include "sharing.hpp"

namespace lucid {

namespace {

using namespace attention;

// Cells whose segments one thread combines. Fixed, so that the order of all sums is, too.
constexpr int64_t chunk_size = 4 * segment_size;

// Most bytes for what several threads have found out about an item's chunks.
constexpr int64_t most_cut_bytes = 16 << 20;

// About how many queries pass by a segment while it lies in the L1 cache.
constexpr int64_t queries_together = 8 * max_queries;

int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The operation's numbers. A head of keys and values serves `sharing` heads of queries. An item is one such head with
// `rows` of its stream's tokens.
struct attention_of {
    const ggml_tensor *op, *q, *k, *v, *mask;
    int64_t key_length, value_length, tokens, number, key_heads, streams, sharing, rows, items_of_head, items, chunks;
    float scale;
    const copies::shared *shared_keys, *shared_values;  // may be null

    explicit attention_of(const ggml_tensor * op)
        : op(op), q(op->src[0]), k(op->src[1]), v(op->src[2]), mask(op->src[3]), key_length(k->ne[0]), value_length(v->ne[0]),
          tokens(q->ne[1]), number(k->ne[1]), key_heads(k->ne[2]), streams(q->ne[3]), sharing(q->ne[2] / k->ne[2]),
          rows(std::clamp<int64_t>(queries_together / sharing, 1, tokens)), items_of_head(ceiling(tokens, rows)),
          items(items_of_head * key_heads * streams), chunks(ceiling(number, chunk_size)),
          shared_keys(static_cast<const copies::shared *>(left(op, 0))),
          shared_values(static_cast<const copies::shared *>(left(op, 1))) {
        std::memcpy(&scale, op->op_params, sizeof scale);
    }

    int64_t state_floats() const { return 2 + value_length; }
    int64_t item_floats() const { return rows * sharing * state_floats(); }
    int64_t cut_bytes() const { return int64_t(sizeof(float)) * items * chunks * item_floats(); }

    // Few items, as in decoding few sequences, are cut into chunks of cells, so that all threads have work.
    bool cut(int64_t threads) const { return chunks > 1 && items < 4 * threads && cut_bytes() <= most_cut_bytes; }

    // Of a thread, for its queries: the states of a segment, of a chunk and of all cells.
    int64_t scratch_floats() const { return max_queries * state_floats() + 2 * item_floats(); }

    size_t work_bytes(int64_t threads) const {
        return size_t(int64_t(sizeof(float)) * threads * scratch_floats() + (cut(threads) ? cut_bytes() : 0));
    }
};

state state_at(float * memory, int64_t floats, int64_t i) {
    float * const at = memory + i * floats;
    return {at[0], at[1], at + 2};
}

void keep(const state & known, float * memory, int64_t floats, int64_t i) {
    memory[i * floats] = known.maximum;
    memory[i * floats + 1] = known.sum;
}

// The heads that share one head of keys, of the tokens [first, first + count) of a stream.
struct item {
    const attention_of & all;
    int64_t stream, key_head, first, count;

    item(const attention_of & all, int64_t i) : all(all) {
        const int64_t head = i / all.items_of_head;
        stream = head / all.key_heads;
        key_head = head % all.key_heads;
        first = i % all.items_of_head * all.rows;
        count = std::min(all.rows, all.tokens - first);
    }

    int64_t queries() const { return count * all.sharing; }
    int64_t token(int64_t query) const { return first + query / all.sharing; }
    int64_t head(int64_t query) const { return key_head * all.sharing + query % all.sharing; }

    query at(int64_t i) const {
        const int64_t token = this->token(i), head = this->head(i);
        const ggml_tensor *q = all.q, *mask = all.mask;
        const char * const values = static_cast<const char *>(q->data) + token * q->nb[1] + head * q->nb[2] + stream * q->nb[3];
        const char * const hidden = mask == nullptr ? nullptr
                                                    : static_cast<const char *>(mask->data) + token * mask->nb[1] +
                                                          head % mask->ne[2] * mask->nb[2] + stream % mask->ne[3] * mask->nb[3];
        return {reinterpret_cast<const float *>(values), reinterpret_cast<const uint16_t *>(hidden)};
    }

    // Of the segment that begins with cell `from`: where several streams hold the same bits, those of one of them.
    cells cells_of(const ggml_tensor * tensor, const copies::shared * shared, int64_t from) const {
        const int64_t stream = this->stream / (all.streams / tensor->ne[3]);
        const char * data = static_cast<const char *>(tensor->data) + key_head * tensor->nb[2] + stream * tensor->nb[3];
        if (shared != nullptr && from + segment_size <= shared[stream].cells) {
            data += shared[stream].offset;
        }
        return {data, tensor->nb[1]};
    }

    // ggml's result is [value_length, heads, tokens, streams], contiguous.
    float * result(int64_t i) const {
        const int64_t row = (stream * all.tokens + token(i)) * all.q->ne[2] + head(i);
        return static_cast<float *>(all.op->data) + row * all.value_length;
    }

    // Queries that are computed together share keys; only where no heads do, they may be of different tokens.
    int64_t together(int64_t i) const {
        if (all.sharing == 1) {
            return std::min(max_queries, count - i);
        }
        const int64_t parts = ceiling(all.sharing, max_queries), size = ceiling(all.sharing, parts), j = i % all.sharing;
        return std::min(size, all.sharing - j);
    }

    // Attention to one chunk of cells, into the states in `chunk`.
    void attend_chunk(int64_t number, float * segment, float * chunk) const {
        const int64_t floats = all.state_floats(), end = std::min(all.number, (number + 1) * chunk_size);
        for (int64_t i = 0; i < queries(); i++) {
            chunk[i * floats + 1] = 0.0f;
        }
        for (int64_t from = number * chunk_size; from < end; from += segment_size) {
            const cells keys = cells_of(all.k, all.shared_keys, from), values = cells_of(all.v, all.shared_values, from);
            for (int64_t i = 0; i < queries();) {
                const int64_t n = together(i);
                query some[max_queries];
                state parts[max_queries];
                for (int64_t j = 0; j < n; j++) {
                    some[j] = at(i + j);
                    parts[j] = state_at(segment, floats, j);
                }
                attend(some, n, keys, all.key_length, values, all.value_length, from, all.scale, parts);
                for (int64_t j = 0; j < n; j++, i++) {
                    state total = state_at(chunk, floats, i);
                    combine(total, parts[j], all.value_length);
                    keep(total, chunk, floats, i);
                }
            }
        }
    }
};

}  // namespace

bool attention_op::takes(const ggml_tensor * op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3], *sinks = op->src[4];
    float parameters[3];  // scale, largest bias of ALiBi, soft cap of the scores
    std::memcpy(parameters, op->op_params, sizeof parameters);
    const bool plain = parameters[1] == 0.0f && parameters[2] == 0.0f && sinks == nullptr;
    const bool types = q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16 &&
                       op->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && k->nb[0] == sizeof(uint16_t) &&
                       v->nb[0] == sizeof(uint16_t);
    const bool shapes = !ggml_is_empty(q) && !ggml_is_empty(k) && k->ne[0] % dimensions_step == 0 &&
                        v->ne[0] % dimensions_step == 0 && k->ne[1] % segment_size == 0 && v->ne[1] == k->ne[1] &&
                        q->ne[2] % k->ne[2] == 0 && v->ne[2] == k->ne[2] && q->ne[3] % k->ne[3] == 0 &&
                        v->ne[3] == k->ne[3] && ggml_is_contiguous(op);
    const bool masked = mask == nullptr || (mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(uint16_t) &&
                                            mask->ne[0] >= k->ne[1] && mask->ne[1] >= q->ne[1]);
    return plain && types && shapes && masked;
}

bool attention_op::work_size(int threads, const ggml_tensor * op, size_t & size) {
    if (!claim(op)) {
        return false;
    }
    leave(op, 0, copies::of(op->src[1]));
    leave(op, 1, copies::of(op->src[2]));
    size = attention_of(op).work_bytes(threads) + sharing::bytes(threads);
    return true;
}

bool attention_op::compute_forward(ggml_compute_params * params, ggml_tensor * op) {
    if (!claimed(op)) {
        return false;
    }
    const attention_of all(op);
    GGML_ASSERT(params->wsize >= all.work_bytes(params->nth) + sharing::bytes(params->nth));
    const int64_t floats = all.state_floats();
    float * const segment = static_cast<float *>(params->wdata) + params->ith * all.scratch_floats();
    float * const chunk = segment + max_queries * floats;
    float * const total = chunk + all.item_floats();
    float * const partial = static_cast<float *>(params->wdata) + params->nth * all.scratch_floats();
    const bool cut = all.cut(params->nth);
    const int64_t parts = cut ? all.items * all.chunks : all.items;
    sharing shared(static_cast<char *>(params->wdata) + all.work_bytes(params->nth), parts, params->nth);
    if (params->ith == 0) {
        shared.begin();
    }
    ggml_barrier(params->threadpool);
    shared.take(params->ith, [&](int64_t part) {
        if (cut) {
            const item one(all, part / all.chunks);
            one.attend_chunk(part % all.chunks, segment, partial + part * all.item_floats());
            return;
        }
        const item one(all, part);
        for (int64_t number = 0; number < all.chunks; number++) {
            one.attend_chunk(number, segment, number == 0 ? total : chunk);
            for (int64_t i = 0; number > 0 && i < one.queries(); i++) {
                state known = state_at(total, floats, i);
                combine(known, state_at(chunk, floats, i), all.value_length);
                keep(known, total, floats, i);
            }
        }
        for (int64_t i = 0; i < one.queries(); i++) {
            finish(state_at(total, floats, i), all.value_length, one.result(i));
        }
    });
    if (!cut) {
        return true;
    }
    ggml_barrier(params->threadpool);
    const int64_t together = all.rows * all.sharing;
    for (int64_t number = params->ith; number < all.items * together; number += params->nth) {
        const item one(all, number / together);
        const int64_t i = number % together;
        if (i >= one.queries()) {
            continue;  // the last item of a head may have fewer
        }
        float * const first = partial + number / together * all.chunks * all.item_floats();
        state known = state_at(first, floats, i);
        for (int64_t other = 1; other < all.chunks; other++) {
            combine(known, state_at(first + other * all.item_floats(), floats, i), all.value_length);
        }
        finish(known, all.value_length, one.result(i));
    }
    return true;
}

}  // namespace lucid
