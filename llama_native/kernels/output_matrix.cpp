// A copy of the output matrix, as it is and for ggml's own kernels, in a buffer of the CPU backend and so in huge pages.
//
// It is the largest matrix of a small model, and is read whole for every token. In the mapped file it lies in pages of 4
// KiB, each of which costs a walk through the page tables. The other weights of such files are packed, so copied too.

#include "output_matrix.hpp"

#include <cstring>

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-cpu/traits.h"

namespace lucid {

thread_local bool output_matrix_wanted = false;

namespace {

// Where the file has no matrix of its own for it, the output's is that of the embeddings once more.
bool is_output(const char * name) {
    return std::strcmp(name, "output.weight") == 0 || std::strcmp(name, "token_embd.weight") == 0;
}

class output_matrix : public ggml::cpu::extra_buffer_type {
    // Asked by the loader, with an empty buffer, and by the scheduler, with the matrix in its place.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor *weight = op->src[0], *input = op->src[1];
        if (op->op != GGML_OP_MUL_MAT || weight->buffer == nullptr || !ggml_is_quantized(weight->type) || input->type != GGML_TYPE_F32) {
            return false;
        }
        const bool loading = ggml_backend_buffer_get_size(weight->buffer) == 0;
        return !loading || (output_matrix_wanted && is_output(weight->name));
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor *) override { return nullptr; }
};

ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer != nullptr) {
        buffer->buft = type;
    }
    return buffer;
}

const char * name(ggml_backend_buffer_type_t) { return "LUCID_OUTPUT"; }
size_t alignment(ggml_backend_buffer_type_t) { return ggml_backend_buft_get_alignment(ggml_backend_cpu_buffer_type()); }
bool is_host(ggml_backend_buffer_type_t) { return true; }

}  // namespace

ggml_backend_buffer_type_t output_matrix_buffer_type() {
    static output_matrix * const context = new output_matrix;
    static ggml_backend_buffer_type type = {
        {name, allocate, alignment, /* get_max_size */ nullptr, /* get_alloc_size */ nullptr, is_host},
        ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        context,
    };
    return &type;
}

}  // namespace lucid
