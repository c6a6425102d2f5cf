#include "maximum.hpp"

#include <algorithm>
#include <cmath>

#include "../kernels/processor.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lucid {

namespace {

float one_by_one(const float * x, int32_t n) {
    constexpr int32_t lanes = 16;  // independent maxima, which compilers can keep in registers of any processor
    float best[lanes];
    bool bad[lanes] = {};
    std::fill(best, best + lanes, -INFINITY);
    for (int32_t i = 0; i < n; i++) {
        const int32_t lane = i % lanes;
        best[lane] = x[i] > best[lane] ? x[i] : best[lane];
        bad[lane] |= !(x[i] < INFINITY);
    }
    return std::find(bad, bad + lanes, true) != bad + lanes ? NAN : *std::max_element(best, best + lanes);
}

#if defined(__x86_64__)

// Greedy sampling reads every logit of every row at each step, on one thread while the others wait.
LUCID_AVX2 float by_registers(const float * x, int32_t n) {
    constexpr int32_t lanes = 8, registers = 4;
    const __m256 infinity = _mm256_set1_ps(INFINITY);
    __m256 best[registers], finite[registers];
    for (int32_t r = 0; r < registers; r++) {
        best[r] = _mm256_set1_ps(-INFINITY);
        finite[r] = _mm256_cmp_ps(best[r], infinity, _CMP_LT_OQ);
    }
    int32_t i = 0;
    for (; i + lanes * registers <= n; i += lanes * registers) {
        for (int32_t r = 0; r < registers; r++) {
            const __m256 value = _mm256_loadu_ps(x + i + r * lanes);
            best[r] = _mm256_max_ps(best[r], value);
            finite[r] = _mm256_and_ps(finite[r], _mm256_cmp_ps(value, infinity, _CMP_LT_OQ));
        }
    }
    for (int32_t r = 1; r < registers; r++) {
        best[0] = _mm256_max_ps(best[0], best[r]);
        finite[0] = _mm256_and_ps(finite[0], finite[r]);
    }
    if (_mm256_movemask_ps(finite[0]) != (1 << lanes) - 1) {
        return NAN;
    }
    float each[lanes + 1];
    _mm256_storeu_ps(each, best[0]);
    each[lanes] = one_by_one(x + i, n - i);
    return one_by_one(each, lanes + 1);
}

#endif

}  // namespace

float maximum(const float * x, int32_t n) {
#if defined(__x86_64__)
    static const bool registers = has_avx2();
    if (registers) {
        return by_registers(x, n);
    }
#endif
    return one_by_one(x, n);
}

}  // namespace lucid
