#include "planning.hpp"

#include <cstdint>
#include <cstring>

namespace lucid {

namespace {

thread_local bool wanted = true;

// Numbers that belong to an operation. ggml uses the first ones.
constexpr int mark = GGML_MAX_OP_PARAMS / sizeof(int32_t) - 1;
constexpr int size_of_pointer = sizeof(void *) / sizeof(int32_t);
constexpr int pointers = mark - 2 * size_of_pointer;
static_assert(pointers >= 8, "those of attention and products take no more than half of them");

}  // namespace

void want_kernels(bool want) { wanted = want; }

bool claim(const ggml_tensor * op) {
    const_cast<ggml_tensor *>(op)->op_params[mark] = wanted;
    return wanted;
}

bool claimed(const ggml_tensor * op) { return op->op_params[mark] != 0; }

void leave(const ggml_tensor * op, int i, const void * pointer) {
    std::memcpy(const_cast<ggml_tensor *>(op)->op_params + pointers + i * size_of_pointer, &pointer, sizeof pointer);
}

const void * left(const ggml_tensor * op, int i) {
    const void * pointer;
    std::memcpy(&pointer, op->op_params + pointers + i * size_of_pointer, sizeof pointer);
    return pointer;
}

}  // namespace lucid
