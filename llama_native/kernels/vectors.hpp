// Vectors of activations, rounded to 8 bits for products with weights of few bits.
//
// As in llama.cpp, each block has a scale of its own; here it is a 32-bit float.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lucid {

constexpr int64_t block_size = 32;  // values with one scale, of vectors and of the matrices they meet

struct vector {
    int8_t * quants;
    float * scales;  // of each block
    float * sums;    // of each block: the sum of its quants times its scale
};

// Bytes of a vector of `length` values, a multiple of a cache line, and the one at position `i` of an array of them.
size_t vector_bytes(int64_t length);
vector vector_at(void * array, int64_t length, int64_t i);

// Needs AVX2.
void quantize(const float * values, int64_t length, const vector & result);

}  // namespace lucid
