// ggml's products of a matrix of weights and activations by our functions: what they share, whatever the weights' format.
#pragma once

#include "ggml-backend-impl.h"
#include "ggml-cpu/traits.h"
#include "product.hpp"

namespace lucid {

// Whether `function` can compute this GGML_OP_MUL_MAT, for weights in its format.
bool takes(const product & function, const ggml_tensor * op);

class product_op : public ggml::cpu::tensor_traits {
public:
    // `always`: ggml has no function for these weights, so the operation is ours also where our kernels are not wanted.
    product_op(const product & function, bool always) : function(function), always(always) {}

    // Called by the thread that has the graph computed.
    bool work_size(int threads, const ggml_tensor * op, size_t & size) override;

    // Called by each of the threads with the same operation. False if it is left to ggml.
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override;

private:
    void multiply_groups(void * vectors, const ggml_tensor * op, int64_t from, int64_t to) const;

    product function;
    bool always;
};

}  // namespace lucid
