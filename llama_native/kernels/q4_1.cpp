#include "q4_1.hpp"

#include <cstring>

#include "processor.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lucid::q4_1 {

namespace {

struct plain_block {  // GGML_TYPE_Q4_1
    uint16_t scale;
    uint16_t minimum;
    uint8_t quants[block_size / 2];
};

}  // namespace

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

#if defined(__x86_64__)

namespace {

// Processors' own prefetching begins anew at every matrix and page.
inline void prefetch(const packed_block * group) {
    constexpr size_t ahead = 32;  // blocks, 5 KiB
    const char * const from = reinterpret_cast<const char *>(group + ahead);
    for (size_t i = 0; i < sizeof *group; i += 64) {
        __builtin_prefetch(from + i);
    }
}

template <int Count>
LUCID_AVX2 void multiply_some(const packed_block * group, int64_t length, const vector * vectors, float * const * results) {
    const __m256i low_half = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 total[Count];
    for (int v = 0; v < Count; v++) {
        total[v] = _mm256_setzero_ps();
    }
    for (int64_t block = 0; block < length / block_size; block++, group++) {
        prefetch(group);
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
        prefetch(group);
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

void multiply(const void * matrix, int64_t length, const vector * vectors, float * const * results, int64_t count) {
    const auto * group = static_cast<const packed_block *>(matrix);
    const bool vnni = uses_vnni();
    switch (count) {
        case 1: return (vnni ? multiply_vnni<1> : multiply_some<1>)(group, length, vectors, results);
        case 2: return (vnni ? multiply_vnni<2> : multiply_some<2>)(group, length, vectors, results);
        case 3: return (vnni ? multiply_vnni<3> : multiply_some<3>)(group, length, vectors, results);
        case 4: return (vnni ? multiply_vnni<4> : multiply_some<4>)(group, length, vectors, results);
    }
}

#else

void multiply(const void *, int64_t, const vector *, float * const *, int64_t) {}

#endif

}  // namespace lucid::q4_1
