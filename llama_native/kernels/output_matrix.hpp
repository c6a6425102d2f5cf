// The output matrix in memory of our own.
#pragma once

#include "ggml-backend.h"

namespace lucid {

// A buffer type for the matrix that makes logits, which llama.cpp would leave in the mapped file.
ggml_backend_buffer_type_t output_matrix_buffer_type();

// Of the model that this thread loads: whether its output matrix may go there.
extern thread_local bool output_matrix_wanted;

}  // namespace lucid
