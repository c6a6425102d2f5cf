#include "q4_1.hpp"

#include <atomic>
#include <cstring>

#include "processor.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lucid::q4_1 {

namespace {

constexpr size_t cache_line = 64;

struct plain_block {  // GGML_TYPE_Q4_1
    uint16_t scale;
    uint16_t minimum;
    uint8_t quants[block_size / 2];
};

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

void pack(packed_block * packed, const void * matrix, int64_t rows, int64_t length) {
    const auto * plain = static_cast<const plain_block *>(matrix);
    const int64_t blocks = length / block_size;
    for (int64_t first = 0; first < rows; first += group_size) {
        for (int64_t block = 0; block < blocks; block++, packed++) {
            for (int64_t row = 0; row < group_size; row++) {
                const plain_block & from = plain[(first + row) * blocks + block];
                packed->scales[row] = from.scale;
                packed->minimums[row] = from.minimum;
                for (int i = 0; i < 4; i++) {
                    std::memcpy(packed->quants[i][row], from.quants + 4 * i, 4);
                }
            }
        }
    }
}

bool supported() { return has_avx2(); }

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
            quant[i] = _mm256_cvtps_epi32(_mm256_mul_ps(value[i], inverse));
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

namespace {

template <int Count>
LUCID_AVX2 void multiply_some(const packed_block * group, int64_t length, const vector * vectors, float * const * results) {
    const __m256i low_half = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 total[Count];
    for (int v = 0; v < Count; v++) {
        total[v] = _mm256_setzero_ps();
    }
    for (int64_t block = 0; block < length / block_size; block++, group++) {
        // 16 bits are enough: each gets 16 products of at most 15 * 128.
        __m256i sums[Count];
        for (int v = 0; v < Count; v++) {
            sums[v] = _mm256_setzero_si256();
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(group->quants[i]));
            const __m256i low = _mm256_and_si256(both, low_half);
            const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_half);
#pragma GCC unroll 8
            for (int v = 0; v < Count; v++) {
                int32_t four[2];
                std::memcpy(&four[0], vectors[v].quants + block * block_size + 4 * i, 4);
                std::memcpy(&four[1], vectors[v].quants + block * block_size + 16 + 4 * i, 4);
                sums[v] = _mm256_add_epi16(sums[v], _mm256_maddubs_epi16(low, _mm256_set1_epi32(four[0])));
                sums[v] = _mm256_add_epi16(sums[v], _mm256_maddubs_epi16(high, _mm256_set1_epi32(four[1])));
            }
        }
        const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(group->scales)));
        const __m256 minimum = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(group->minimums)));
#pragma GCC unroll 8
        for (int v = 0; v < Count; v++) {
            const __m256 product = _mm256_cvtepi32_ps(_mm256_madd_epi16(sums[v], ones));
            const __m256 both_scales = _mm256_mul_ps(scale, _mm256_broadcast_ss(vectors[v].scales + block));
            total[v] = _mm256_fmadd_ps(product, both_scales, total[v]);
            total[v] = _mm256_fmadd_ps(minimum, _mm256_broadcast_ss(vectors[v].sums + block), total[v]);
        }
    }
    for (int v = 0; v < Count; v++) {
        _mm256_storeu_ps(results[v], total[v]);
    }
}

// The same in fewer instructions. The sums of a block are whole numbers on both ways, so the results have the same bits.
template <int Count>
LUCID_VNNI void multiply_vnni(const packed_block * group, int64_t length, const vector * vectors, float * const * results) {
    const __m256i low_half = _mm256_set1_epi8(15);
    __m256 total[Count];
    for (int v = 0; v < Count; v++) {
        total[v] = _mm256_setzero_ps();
    }
    for (int64_t block = 0; block < length / block_size; block++, group++) {
        __m256i sums[Count];
        for (int v = 0; v < Count; v++) {
            sums[v] = _mm256_setzero_si256();
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(group->quants[i]));
            const __m256i low = _mm256_and_si256(both, low_half);
            const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_half);
#pragma GCC unroll 8
            for (int v = 0; v < Count; v++) {
                int32_t four[2];
                std::memcpy(&four[0], vectors[v].quants + block * block_size + 4 * i, 4);
                std::memcpy(&four[1], vectors[v].quants + block * block_size + 16 + 4 * i, 4);
                sums[v] = _mm256_dpbusd_epi32(sums[v], low, _mm256_set1_epi32(four[0]));
                sums[v] = _mm256_dpbusd_epi32(sums[v], high, _mm256_set1_epi32(four[1]));
            }
        }
        const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(group->scales)));
        const __m256 minimum = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(group->minimums)));
#pragma GCC unroll 8
        for (int v = 0; v < Count; v++) {
            const __m256 both_scales = _mm256_mul_ps(scale, _mm256_broadcast_ss(vectors[v].scales + block));
            total[v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[v]), both_scales, total[v]);
            total[v] = _mm256_fmadd_ps(minimum, _mm256_broadcast_ss(vectors[v].sums + block), total[v]);
        }
    }
    for (int v = 0; v < Count; v++) {
        _mm256_storeu_ps(results[v], total[v]);
    }
}

}  // namespace

std::atomic<bool> use_vnni = has_vnni();

void multiply(const packed_block * group, int64_t length, const vector * vectors, float * const * results, int64_t count) {
    const bool vnni = use_vnni.load(std::memory_order_relaxed);
    switch (count) {
        case 1: return (vnni ? multiply_vnni<1> : multiply_some<1>)(group, length, vectors, results);
        case 2: return (vnni ? multiply_vnni<2> : multiply_some<2>)(group, length, vectors, results);
        case 3: return (vnni ? multiply_vnni<3> : multiply_some<3>)(group, length, vectors, results);
        case 4: return (vnni ? multiply_vnni<4> : multiply_some<4>)(group, length, vectors, results);
    }
}

#else

void quantize(const float *, int64_t, const vector &) {}
void multiply(const packed_block *, int64_t, const vector *, float * const *, int64_t) {}

#endif

}  // namespace lucid::q4_1

extern "C" bool lucid_use_vnni([[maybe_unused]] bool wanted) {
#if defined(__x86_64__)
    return lucid::q4_1::use_vnni = wanted && lucid::has_vnni();
#else
    return false;
#endif
}
