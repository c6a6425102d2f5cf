// Attention of queries that share keys and values, which lie in the KV cache as 16-bit floats.
//
// llama.cpp's flash attention takes one head of one query at a time when it decodes, converts every key and value for it
// and sums in 16 bits. Here the heads that share keys (grouped-query attention, https://arxiv.org/abs/2305.13245) are
// computed together, three at a time, and sums have 32 bits.
//
// The cells of the cache are taken in segments, whose results are combined in their order: the online softmax of
// https://arxiv.org/abs/1805.02867. A query's result is the same bits whatever other queries it is computed with, by
// however many threads, and whether its segments were computed in one place or in several; as long as values are finite:
// queries of several tokens that are computed together share infinite ones, as in llama.cpp's tiles.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lucid::attention {

constexpr int64_t max_queries = 3;    // computed together
constexpr int64_t segment_size = 64;  // cells
constexpr int64_t dimensions_step = 16;  // keys and values must have a multiple of these

// Keys or values of one head: 16-bit floats, one row for each cell.
struct cells {
    const char * data;
    size_t stride;  // bytes from one cell to the next

    const uint16_t * at(int64_t cell) const { return reinterpret_cast<const uint16_t *>(data + cell * int64_t(stride)); }
};

struct query {
    const float * values;
    const uint16_t * mask;  // 16-bit floats added to the scores, -infinity for cells that must not be seen; may be null
};

// What softmax knows of a query's cells so far: the largest score, the sum of the exponents, and the values weighted by them.
struct state {
    float maximum;
    float sum;
    float * values;
};

// Attention of `count` queries to the segment of cells that begins with `first`, anew in `states`.
void attend(const query * queries, int64_t count, const cells & keys, int64_t key_length, const cells & values,
            int64_t value_length, int64_t first, float scale, state * states);

// Adds what `part` knows to `total`.
void combine(state & total, const state & part, int64_t value_length);

// Writes the weighted mean of the values; zeros if no cell was seen.
void finish(const state & total, int64_t value_length, float * result);

}  // namespace lucid::attention
