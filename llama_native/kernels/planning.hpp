// Whether an operation is ours, which the thread that plans a graph decides for those that compute it, so that contexts
// with our kernels and without can run side by side.
#pragma once

#include "ggml.h"

namespace lucid {

// Whether graphs that this thread has computed from now on may use our kernels; they may until it is called.
void want_kernels(bool want);

// By the thread that plans: notes in the operation whether it is ours, and returns that.
bool claim(const ggml_tensor * op);

// By the threads that compute.
bool claimed(const ggml_tensor * op);

// What the thread that plans leaves in an operation for those that compute it: `i` is 0 or 1.
void leave(const ggml_tensor * op, int i, const void * pointer);
const void * left(const ggml_tensor * op, int i);

}  // namespace lucid
