#include "vectors.hpp"

#include "processor.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lucid {

namespace {

constexpr size_t cache_line = 64;

}  // namespace

size_t vector_bytes(int64_t length) {
    const size_t bytes = size_t(length) + size_t(length / block_size) * 2 * sizeof(float);
    return (bytes + cache_line - 1) / cache_line * cache_line;
}

vector vector_at(void * array, int64_t length, int64_t i) {
    char * const quants = static_cast<char *>(array) + vector_bytes(length) * size_t(i);
    float * const scales = reinterpret_cast<float *>(quants + length);
    return {reinterpret_cast<int8_t *>(quants), scales, scales + length / block_size};
}

#if defined(__x86_64__)

LUCID_AVX2 void quantize(const float * values, int64_t length, const vector & result) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t block = 0; block < length / block_size; block++, values += block_size) {
        __m256 value[4];
        __m256 largest = _mm256_setzero_ps();
        for (int i = 0; i < 4; i++) {
            value[i] = _mm256_loadu_ps(values + 8 * i);
            largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, value[i]));
        }
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        half = _mm_max_ss(half, _mm_movehdup_ps(half));
        const float scale = _mm_cvtss_f32(half) / 127.0f;
        const __m256 inverse = _mm256_set1_ps(scale > 0.0f ? 1.0f / scale : 0.0f);
        __m256i quant[4];
        __m256i sums = _mm256_setzero_si256();
        for (int i = 0; i < 4; i++) {
            // What is no number becomes the least one; -128 has no counterpart.
            quant[i] = _mm256_max_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(value[i], inverse)), _mm256_set1_epi32(-127));
            sums = _mm256_add_epi32(sums, quant[i]);
        }
        // Packing works within halves of a register; the permutation puts the values in order again.
        const __m256i low = _mm256_packs_epi32(quant[0], quant[1]), high = _mm256_packs_epi32(quant[2], quant[3]);
        const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(result.quants + block * block_size), bytes);
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
        result.scales[block] = scale;
        result.sums[block] = scale * float(_mm_cvtsi128_si32(sum));
    }
}

#else

void quantize(const float *, int64_t, const vector &) {}

#endif

}  // namespace lucid
