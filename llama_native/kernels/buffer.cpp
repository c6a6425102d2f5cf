// A buffer type of ggml's CPU backend whose matrices are packed for our kernels and multiplied by them. What needs no packing,
// attention and matrices in Q8_0, comes in by the same door.
//
// ggml's CPU backend asks every "extra buffer type" whether it wants a weight, has it convert the weight while it is
// loaded, and lets it compute the operations on it, within the same compute threads and the same graph. Its own repacked
// formats are such a type; this is one more, added to ggml's list before the first model is loaded.

#include <algorithm>

#include "../shim/guard.hpp"
#include "attention_op.hpp"
#include "copies.hpp"
#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-cpu/traits.h"
#include "processor.hpp"
#include "product_op.hpp"
#include "q4_1.hpp"
#include "q8_0.hpp"

namespace {

namespace q4_1 = lucid::q4_1;
namespace q8_0 = lucid::q8_0;
using ggml::cpu::tensor_traits;

// Of the model that this thread loads: whether it may use these kernels, and bytes of weights that they took.
thread_local bool wanted = false;
thread_local size_t taken = 0;

ggml_backend_buffer_type_t buffer_type();

bool is_packed(const ggml_tensor * weight) {
    return weight->buffer != nullptr && ggml_backend_buffer_get_type(weight->buffer) == buffer_type();
}

// A matrix in Q8_0 where the processor can read it, as it is in the file.
bool is_plain_q8_0(const ggml_tensor * weight) {
    return weight->type == GGML_TYPE_Q8_0 && weight->buffer != nullptr && ggml_backend_buffer_is_host(weight->buffer);
}

// These are never destroyed: a thread may compute until the very end of the process.
tensor_traits * product_of_packed() {
    static tensor_traits * const traits = new lucid::product_op(q4_1::of_packed, /* always */ true);
    return traits;
}

tensor_traits * product_of_plain() {
    static tensor_traits * const traits = new lucid::product_op(q8_0::of_plain, /* always */ false);
    return traits;
}

tensor_traits * attention() {
    static tensor_traits * const traits = new lucid::attention_op;
    return traits;
}

// Computes nothing; sees what will be written into KV caches.
class watching : public tensor_traits {
    bool work_size(int, const ggml_tensor * op, size_t &) override {
        lucid::copies::will_compute(op);
        return false;
    }

    bool compute_forward(ggml_compute_params *, ggml_tensor *) override { return false; }
};

tensor_traits * watcher() {
    static tensor_traits * const traits = new watching;
    return traits;
}

// Whether an operation writes into what is not its own.
bool writes_elsewhere(const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_NONE:
        case GGML_OP_VIEW:
        case GGML_OP_RESHAPE:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE: return false;
        default: return op->view_src != nullptr;
    }
}

class packing : public ggml::cpu::extra_buffer_type {
    // Asked by the loader, with an empty buffer, and by the scheduler, with the weight in its place.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        if (op->op != GGML_OP_MUL_MAT || !is_packed(op->src[0])) {
            return false;
        }
        const ggml_tensor *weight = op->src[0], *input = op->src[1];
        const bool loading = ggml_backend_buffer_get_size(weight->buffer) == 0;
        return (wanted || !loading) && weight->type == GGML_TYPE_Q4_1 && takes(q4_1::of_packed, op) &&
               (input->buffer == nullptr || ggml_backend_buffer_is_host(input->buffer));
    }

    tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        switch (op->op) {
            case GGML_OP_MUL_MAT:
                if (is_packed(op->src[0])) {
                    return product_of_packed();
                }
                return is_plain_q8_0(op->src[0]) && takes(q8_0::of_plain, op) ? product_of_plain() : nullptr;
            case GGML_OP_FLASH_ATTN_EXT: return lucid::attention_op::takes(op) ? attention() : nullptr;
            default: return writes_elsewhere(op) ? watcher() : nullptr;
        }
    }
};

void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor));
    q4_1::pack(static_cast<q4_1::packed_block *>(tensor->data), data, tensor->ne[1], tensor->ne[0]);
    taken += size;
}

ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer != nullptr) {
        buffer->buft = type;
        buffer->iface.set_tensor = set_tensor;
        buffer->iface.get_tensor = nullptr;  // as in ggml's repacked formats: there is no way back
        buffer->iface.cpy_tensor = nullptr;
    }
    return buffer;
}

const char * name(ggml_backend_buffer_type_t) { return "LUCID_PACKED"; }
size_t alignment(ggml_backend_buffer_type_t) { return ggml_backend_buft_get_alignment(ggml_backend_cpu_buffer_type()); }

ggml_backend_buffer_type_t buffer_type() {
    static packing * const context = new packing;
    static ggml_backend_buffer_type type = {
        {name, allocate, alignment, /* get_max_size */ nullptr, /* get_alloc_size */ nullptr, /* is_host */ nullptr},
        ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        context,
    };
    return &type;
}

}  // namespace

extern "C" {

bool lucid_kernels_install(void) {
    if (!lucid::has_avx2()) {
        return false;
    }
    auto & types = ggml_backend_cpu_get_extra_buffer_types();
    if (std::find(types.begin(), types.end(), buffer_type()) == types.end()) {
        types.push_back(buffer_type());  // behind ggml's own: what those take (AMX does), they are better at
        lucid::copies::install();
    }
    return true;
}

llama_model * lucid_model_load(const char * path, const llama_model_params * params, bool kernels, size_t * packed) {
    wanted = kernels;
    taken = 0;
    llama_model * const model =
        lucid::guarded<llama_model *>(nullptr, [&] { return llama_model_load_from_file(path, *params); });
    wanted = false;
    *packed = taken;
    return model;
}
}
