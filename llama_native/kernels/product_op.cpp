#include "product_op.hpp"

#include <algorithm>

#include "ggml-cpu/ggml-cpu-impl.h"
#include "planning.hpp"
#include "sharing.hpp"

namespace lucid {

namespace {

// What a thread computes at a time. It stays in the L1 cache while all vectors pass by.
constexpr int64_t part_bytes = 16384;

// Address of row `i` of a tensor, counted over all its dimensions but the first.
char * row(const ggml_tensor * tensor, int64_t i) {
    const int64_t i1 = i % tensor->ne[1], i2 = i / tensor->ne[1] % tensor->ne[2], i3 = i / tensor->ne[1] / tensor->ne[2];
    return static_cast<char *>(tensor->data) + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
}

size_t vectors_bytes(const ggml_tensor * op) {
    return vector_bytes(op->src[1]->ne[0]) * size_t(ggml_nrows(op->src[1]));
}

}  // namespace

bool takes(const product & function, const ggml_tensor * op) {
    const ggml_tensor *weight = op->src[0], *input = op->src[1];
    return weight->view_src == nullptr && ggml_n_dims(weight) == 2 && weight->ne[0] % block_size == 0 &&
           weight->ne[1] % function.group_size == 0 && ggml_is_contiguous(weight) && input->type == GGML_TYPE_F32 &&
           input->nb[0] == sizeof(float) && ggml_get_op_params_i32(op, 1) == GGML_HINT_NONE;
}

bool product_op::work_size(int threads, const ggml_tensor * op, size_t & size) {
    if (!claim(op) && !always) {
        return false;
    }
    size = vectors_bytes(op) + sharing::bytes(threads);
    return true;
}

bool product_op::compute_forward(ggml_compute_params * params, ggml_tensor * op) {
    if (!claimed(op) && !always) {
        return false;
    }
    const ggml_tensor *weight = op->src[0], *input = op->src[1];
    const int64_t length = weight->ne[0], groups = weight->ne[1] / function.group_size, count = ggml_nrows(input);
    GGML_ASSERT(params->wsize >= vectors_bytes(op) + sharing::bytes(params->nth));
    for (int64_t i = params->ith; i < count; i += params->nth) {
        quantize(reinterpret_cast<const float *>(row(input, i)), length, vector_at(params->wdata, length, i));
    }
    const int64_t group_bytes = length / block_size * int64_t(function.block_bytes);
    const int64_t part = std::clamp<int64_t>(part_bytes / group_bytes, 1, std::max<int64_t>(1, groups / params->nth));
    sharing parts(static_cast<char *>(params->wdata) + vectors_bytes(op), (groups + part - 1) / part, params->nth);
    if (params->ith == 0) {
        parts.begin();
    }
    ggml_barrier(params->threadpool);
    parts.take(params->ith, [&](int64_t at) {
        multiply_groups(params->wdata, op, at * part, std::min(groups, (at + 1) * part));
    });
    return true;
}

void product_op::multiply_groups(void * quantized, const ggml_tensor * op, int64_t from, int64_t to) const {
    const int64_t length = op->src[0]->ne[0], count = ggml_nrows(op->src[1]);
    const int64_t group_bytes = length / block_size * int64_t(function.block_bytes);
    const char * const matrix = static_cast<const char *>(op->src[0]->data);
    for (int64_t first = 0; first < count; first += max_vectors) {
        const int64_t some = std::min(max_vectors, count - first);
        vector vectors[max_vectors];
        float * results[max_vectors];
        for (int64_t i = 0; i < some; i++) {
            vectors[i] = vector_at(quantized, length, first + i);
            results[i] = reinterpret_cast<float *>(row(op, first + i)) + from * function.group_size;
        }
        for (int64_t group = from; group < to; group++) {
            function.multiply(matrix + group * group_bytes, length, vectors, results, some);
            for (int64_t i = 0; i < some; i++) {
                results[i] += function.group_size;
            }
        }
    }
}

}  // namespace lucid
