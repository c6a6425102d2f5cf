// A product of a matrix of weights and vectors of activations, for one format of weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vectors.hpp"

namespace lucid {

// Largest number of vectors that are computed together.
constexpr int64_t max_vectors = 4;

// A group is some rows of the matrix that are computed together.
struct product {
    int64_t group_size;  // rows
    size_t block_bytes;  // of a group, for each block_size columns

    // Writes the products of one group and `count` vectors of `length` values: results[i][row].
    void (*multiply)(const void * group, int64_t length, const vector * vectors, float * const * results, int64_t count);
};

}  // namespace lucid
