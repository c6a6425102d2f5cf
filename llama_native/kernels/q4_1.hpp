// Products of a Q4_1 matrix and vectors of floats, several rows of the matrix at a time.
//
// llama.cpp has fast kernels of this kind for Q4_0, Q4_K and others, but none for Q4_1 on x86: there every row of the
// matrix is unpacked anew for every vector. Here eight rows lie interleaved, so that one vector register holds the same
// four values of all eight, is unpacked once and meets as many vectors as there are registers.
//
// A vector's product is the same bits whatever other vectors it is computed with, and by however many threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lucid::q4_1 {

constexpr int64_t block_size = 32;  // values with one scale and one minimum
constexpr int64_t group_size = 8;   // rows of the matrix that lie interleaved

// The same block of eight rows; as many bytes as the eight blocks of GGML_TYPE_Q4_1 have.
struct packed_block {
    uint16_t scales[group_size];    // binary16
    uint16_t minimums[group_size];  // binary16
    uint8_t quants[4][group_size][4];  // [i][row]: values 4i to 4i+3 in the low, 16+4i to 16+4i+3 in the high halves
};
static_assert(sizeof(packed_block) == 160, "a packed block takes the space of eight blocks");

// A vector in 8 bits. Of each block: its scale, and the sum of its values times that.
struct vector {
    int8_t * quants;
    float * scales;
    float * sums;
};

// Whether this processor has the instructions that the functions below need.
bool supported();

// Bytes of a vector of `length` values, a multiple of a cache line, and the one at position `i` of an array of them.
size_t vector_bytes(int64_t length);
vector vector_at(void * array, int64_t length, int64_t i);

// Interleaves `rows` (a multiple of group_size) rows of `length` values in the layout of GGML_TYPE_Q4_1.
void pack(packed_block * packed, const void * matrix, int64_t rows, int64_t length);

void quantize(const float * values, int64_t length, const vector & result);

// Largest number of vectors for multiply().
constexpr int64_t max_vectors = 4;

// Writes the products of one group of rows and `count` vectors: results[i][row].
void multiply(const packed_block * group, int64_t length, const vector * vectors, float * const * results, int64_t count);

}  // namespace lucid::q4_1
