// Products of a Q4_1 matrix and vectors, several rows of the matrix at a time.
//
// llama.cpp has fast kernels of this kind for Q4_0, Q4_K and others, but none for Q4_1 on x86: there every row of the
// matrix is unpacked anew for every vector. Here eight rows lie interleaved, so that one vector register holds the same
// four values of all eight, is unpacked once and meets as many vectors as there are registers.
//
// A vector's product is the same bits whatever other vectors it is computed with, and by however many threads.
#pragma once

#include "product.hpp"

namespace lucid::q4_1 {

constexpr int64_t group_size = 8;  // rows of the matrix that lie interleaved

// The same block of eight rows; as many bytes as the eight blocks of GGML_TYPE_Q4_1 have.
struct packed_block {
    uint16_t scales[group_size];    // binary16
    uint16_t minimums[group_size];  // binary16
    uint8_t quants[4][group_size][4];  // [i][row]: values 4i to 4i+3 in the low, 16+4i to 16+4i+3 in the high halves
};
static_assert(sizeof(packed_block) == 160, "a packed block takes the space of eight blocks");

// Interleaves `rows` (a multiple of group_size) rows of `length` values in the layout of GGML_TYPE_Q4_1.
void pack(packed_block * packed, const void * matrix, int64_t rows, int64_t length);

// See `product::multiply`.
void multiply(const void * group, int64_t length, const vector * vectors, float * const * results, int64_t count);

constexpr product of_packed = {group_size, sizeof(packed_block), multiply};

}  // namespace lucid::q4_1
