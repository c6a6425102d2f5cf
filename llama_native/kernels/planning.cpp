#include "planning.hpp"

#include <cstdint>

namespace lucid {

namespace {

thread_local bool wanted = true;

constexpr int mark = GGML_MAX_OP_PARAMS / sizeof(int32_t) - 1;  // ggml uses the first ones

}  // namespace

void want_kernels(bool want) { wanted = want; }

bool claim(const ggml_tensor * op) {
    const_cast<ggml_tensor *>(op)->op_params[mark] = wanted;
    return wanted;
}

bool claimed(const ggml_tensor * op) { return op->op_params[mark] != 0; }

}  // namespace lucid
