#include "q8_0.hpp"

#include "processor.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lucid::q8_0 {

#if defined(__x86_64__)

namespace {

constexpr int rows = int(group_size);

// Processors' own prefetching begins anew at every page.
inline void prefetch(const block * from, int64_t blocks) {
    constexpr int64_t ahead = 2;  // groups
    __builtin_prefetch(from + ahead * group_size * blocks);
}

LUCID_AVX2 inline __m256i load(const int8_t * from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)); }

// The sum of a register's floats.
LUCID_AVX2 inline float sum(__m256 values) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// With AVX2, products of bytes need one side without signs: the weights lend theirs to the vector.
template <int Count>
LUCID_AVX2 void multiply_some(const block * group, int64_t blocks, const vector * vectors, float * const * results) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 total[rows][Count];
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < Count; v++) {
            total[r][v] = _mm256_setzero_ps();
        }
    }
    for (int64_t i = 0; i < blocks; i++) {
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const block & weights = group[r * blocks + i];
            prefetch(&weights, blocks);
            const __m256i signs = load(weights.quants), sizes = _mm256_abs_epi8(signs);
            const __m256 scale = _mm256_set1_ps(_cvtsh_ss(weights.scale));
#pragma GCC unroll 4
            for (int v = 0; v < Count; v++) {
                const __m256i quants = _mm256_sign_epi8(load(vectors[v].quants + i * block_size), signs);
                const __m256i product = _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, quants), ones);
                const __m256 both_scales = _mm256_mul_ps(scale, _mm256_broadcast_ss(vectors[v].scales + i));
                total[r][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), both_scales, total[r][v]);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < Count; v++) {
            results[v][r] = sum(total[r][v]);
        }
    }
}

// The same in fewer instructions: to the vector's side 128 is added, and that times the weights taken away again. The sums
// of a block are whole numbers on both ways, so the results have the same bits.
template <int Count>
LUCID_VNNI void multiply_vnni(const block * group, int64_t blocks, const vector * vectors, float * const * results) {
    const __m256i half = _mm256_set1_epi8(-128), zero = _mm256_setzero_si256();
    __m256 total[rows][Count];
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < Count; v++) {
            total[r][v] = _mm256_setzero_ps();
        }
    }
    for (int64_t i = 0; i < blocks; i++) {
        __m256i quants[rows], excess[rows];
        __m256 scale[rows];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const block & weights = group[r * blocks + i];
            prefetch(&weights, blocks);
            quants[r] = load(weights.quants);
            excess[r] = _mm256_sub_epi32(zero, _mm256_dpbusd_epi32(zero, half, quants[r]));
            scale[r] = _mm256_set1_ps(_cvtsh_ss(weights.scale));
        }
#pragma GCC unroll 4
        for (int v = 0; v < Count; v++) {
            const __m256i values = _mm256_xor_si256(load(vectors[v].quants + i * block_size), half);
            const __m256 vector_scale = _mm256_broadcast_ss(vectors[v].scales + i);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                const __m256 product = _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(excess[r], values, quants[r]));
                total[r][v] = _mm256_fmadd_ps(product, _mm256_mul_ps(scale[r], vector_scale), total[r][v]);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < Count; v++) {
            results[v][r] = sum(total[r][v]);
        }
    }
}

}  // namespace

void multiply(const void * matrix, int64_t length, const vector * vectors, float * const * results, int64_t count) {
    const auto * group = static_cast<const block *>(matrix);
    const int64_t blocks = length / block_size;
    const bool vnni = uses_vnni();
    switch (count) {
        case 1: return (vnni ? multiply_vnni<1> : multiply_some<1>)(group, blocks, vectors, results);
        case 2: return (vnni ? multiply_vnni<2> : multiply_some<2>)(group, blocks, vectors, results);
        case 3: return (vnni ? multiply_vnni<3> : multiply_some<3>)(group, blocks, vectors, results);
        case 4: return (vnni ? multiply_vnni<4> : multiply_some<4>)(group, blocks, vectors, results);
    }
}

#else

void multiply(const void *, int64_t, const vector *, float * const *, int64_t) {}

#endif

}  // namespace lucid::q8_0
