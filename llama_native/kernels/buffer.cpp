// A buffer type of ggml's CPU backend whose matrices are packed for our kernels and multiplied by them. Attention, which has
// no weights, comes in by the same door.
//
// ggml's CPU backend asks every "extra buffer type" whether it wants a weight, has it convert the weight while it is
// loaded, and lets it compute the operations on it, within the same compute threads and the same graph. Its own repacked
// formats are such a type; this is one more, added to ggml's list before the first model is loaded.

#include <algorithm>

#include "../shim/guard.hpp"
#include "attention.hpp"
#include "attention_op.hpp"
#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-cpu/ggml-cpu-impl.h"
#include "ggml-cpu/traits.h"
#include "q4_1.hpp"

namespace {

using namespace lucid::q4_1;
using ggml::cpu::tensor_traits;

// Of the model that this thread loads: whether it may use these kernels, and bytes of weights that they took.
thread_local bool wanted = false;
thread_local size_t taken = 0;

ggml_backend_buffer_type_t buffer_type();

bool is_packed(const ggml_tensor * weight) {
    return weight->buffer != nullptr && ggml_backend_buffer_get_type(weight->buffer) == buffer_type();
}

// Address of row `i` of a tensor, counted over all its dimensions but the first.
char * row(const ggml_tensor * tensor, int64_t i) {
    const int64_t i1 = i % tensor->ne[1], i2 = i / tensor->ne[1] % tensor->ne[2], i3 = i / tensor->ne[1] / tensor->ne[2];
    return static_cast<char *>(tensor->data) + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
}

class product : public tensor_traits {
    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        size = vector_bytes(op->src[1]->ne[0]) * size_t(ggml_nrows(op->src[1]));
        return true;
    }

    // Called by each of the threads with the same operation.
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const ggml_tensor *weight = op->src[0], *input = op->src[1];
        const int64_t length = weight->ne[0], groups = weight->ne[1] / group_size, count = ggml_nrows(input);
        for (int64_t i = params->ith; i < count; i += params->nth) {
            quantize(reinterpret_cast<const float *>(row(input, i)), length, vector_at(params->wdata, length, i));
        }
        // Threads take parts as they come, since one may share its core with other work. A part stays in the cache
        // while all vectors pass by.
        const int64_t group_bytes = length / block_size * int64_t(sizeof(packed_block));
        const int64_t part = std::clamp<int64_t>(part_bytes / group_bytes, 1, std::max<int64_t>(1, groups / params->nth));
        const int64_t parts = (groups + part - 1) / part;
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);
        for (int64_t at = params->ith; at < parts; at = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            multiply_groups(params, op, at * part, std::min(groups, (at + 1) * part), count);
        }
        return true;
    }

    static void multiply_groups(const ggml_compute_params * params, const ggml_tensor * op, int64_t from, int64_t to,
                                int64_t count) {
        const int64_t length = op->src[0]->ne[0], blocks = length / block_size;
        const auto * packed = static_cast<const packed_block *>(op->src[0]->data);
        for (int64_t first = 0; first < count; first += max_vectors) {
            const int64_t some = std::min(max_vectors, count - first);
            vector vectors[max_vectors];
            float * results[max_vectors];
            for (int64_t i = 0; i < some; i++) {
                vectors[i] = vector_at(params->wdata, length, first + i);
                results[i] = reinterpret_cast<float *>(row(op, first + i)) + from * group_size;
            }
            for (int64_t group = from; group < to; group++) {
                multiply(packed + group * blocks, length, vectors, results, some);
                for (int64_t i = 0; i < some; i++) {
                    results[i] += group_size;
                }
            }
        }
    }

    static constexpr int64_t part_bytes = 16384;
};

// Never destroyed: a thread may compute until the very end of the process.
tensor_traits * product_of_packed() {
    static tensor_traits * const traits = new product;
    return traits;
}

tensor_traits * attention() {
    static tensor_traits * const traits = new lucid::attention_op;
    return traits;
}

class packing : public ggml::cpu::extra_buffer_type {
    // Asked by the loader, with an empty buffer, and by the scheduler, with the weight in its place.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        if (op->op != GGML_OP_MUL_MAT || !is_packed(op->src[0])) {
            return false;
        }
        const ggml_tensor *weight = op->src[0], *input = op->src[1];
        const bool loading = ggml_backend_buffer_get_size(weight->buffer) == 0;
        return (wanted || !loading) && weight->view_src == nullptr && weight->type == GGML_TYPE_Q4_1 && ggml_n_dims(weight) == 2 &&
               weight->ne[1] % group_size == 0 && input->type == GGML_TYPE_F32 && input->nb[0] == sizeof(float) &&
               (input->buffer == nullptr || ggml_backend_buffer_is_host(input->buffer));
    }

    tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        switch (op->op) {
            case GGML_OP_MUL_MAT: return is_packed(op->src[0]) ? product_of_packed() : nullptr;
            case GGML_OP_FLASH_ATTN_EXT: return lucid::attention_op::takes(op) ? attention() : nullptr;
            default: return nullptr;
        }
    }
};

void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor));
    pack(static_cast<packed_block *>(tensor->data), data, tensor->ne[1], tensor->ne[0]);
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
    if (!supported() || !lucid::attention::supported()) {
        return false;
    }
    auto & types = ggml_backend_cpu_get_extra_buffer_types();
    if (std::find(types.begin(), types.end(), buffer_type()) == types.end()) {
        types.push_back(buffer_type());  // behind ggml's own: what those take (AMX does), they are better at
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
