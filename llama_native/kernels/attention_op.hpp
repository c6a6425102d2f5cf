// ggml's flash attention by our functions.
#pragma once

#include "ggml-backend-impl.h"
#include "ggml-cpu/traits.h"

namespace lucid {

struct attention_op : ggml::cpu::tensor_traits {
    // Whether our functions can compute this GGML_OP_FLASH_ATTN_EXT.
    static bool takes(const ggml_tensor * op);

    // Called by the thread that has the graph computed.
    bool work_size(int threads, const ggml_tensor * op, size_t & size) override;

    // Called by each of the threads with the same operation. False if it is left to ggml.
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override;
};

}  // namespace lucid
