// The largest of many numbers.
#pragma once

#include <cstdint>

namespace lucid {

// The largest of n numbers; NaN if one of them is NaN or +inf, -inf if there are none.
float maximum(const float * x, int32_t n);

}  // namespace lucid
