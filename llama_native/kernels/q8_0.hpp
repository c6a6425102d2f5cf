// Products of a Q8_0 matrix and vectors, with the matrix as it lies in the file.
//
// It is the format of many models' largest matrix, the output, which every decode step reads whole. llama.cpp computes it
// for one vector at the speed of memory at best, for several without AVX-512's products of bytes. Here four rows meet four
// vectors at a time, and every thread reads one stream.
//
// A vector's product is the same bits whatever other vectors it is computed with, and by however many threads.
#pragma once

#include "product.hpp"

namespace lucid::q8_0 {

constexpr int64_t group_size = 4;  // rows that are computed together

struct block {  // GGML_TYPE_Q8_0
    uint16_t scale;  // binary16
    int8_t quants[block_size];
};
static_assert(sizeof(block) == 34, "as in the file");

// See `product::multiply`.
void multiply(const void * group, int64_t length, const vector * vectors, float * const * results, int64_t count);

constexpr product of_plain = {group_size, group_size * sizeof(block), multiply};

}  // namespace lucid::q8_0
