#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "processor.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lucid::attention {

void combine(state & total, const state & part, int64_t value_length) {
    if (part.sum == 0.0f) {
        return;
    }
    if (total.sum == 0.0f) {
        total.maximum = part.maximum;
        total.sum = part.sum;
        std::memcpy(total.values, part.values, size_t(value_length) * sizeof(float));
        return;
    }
    const float maximum = std::max(total.maximum, part.maximum);
    const float old = std::exp(total.maximum - maximum), more = std::exp(part.maximum - maximum);
    total.maximum = maximum;
    total.sum = total.sum * old + part.sum * more;
    for (int64_t i = 0; i < value_length; i++) {
        total.values[i] = total.values[i] * old + part.values[i] * more;
    }
}

void finish(const state & total, int64_t value_length, float * result) {
    if (total.sum == 0.0f) {  // then nobody has written the values
        std::fill(result, result + value_length, 0.0f);
        return;
    }
    const float inverse = 1.0f / total.sum;
    for (int64_t i = 0; i < value_length; i++) {
        result[i] = total.values[i] * inverse;
    }
}

#if defined(__x86_64__)

namespace {

constexpr uint16_t unseen = 0xfc00;  // -infinity
constexpr int lanes = 8;             // floats in a register
constexpr int64_t ahead = 16;        // cells

LUCID_AVX2 inline __m256 load_half(const uint16_t * from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}

// exp(x) for x <= 0, within 2 units in the last place; 0 below -87, near the smallest normal number.
LUCID_AVX2 inline __m256 exponential(__m256 x) {
    const __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_LT_OQ);
    // x = n ln 2 + rest. The first part of ln 2 is so short that its products are exact.
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 rest = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    rest = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), rest);
    __m256 series = _mm256_set1_ps(1.0f / 5040);
    for (const float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
        series = _mm256_fmadd_ps(series, rest, _mm256_set1_ps(coefficient));
    }
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_andnot_ps(tiny, _mm256_mul_ps(series, _mm256_castsi256_ps(power)));
}

// The four sums of four registers.
LUCID_AVX2 inline __m128 sums(__m256 a, __m256 b, __m256 c, __m256 d) {
    const __m256 both = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
}

// The cells of a segment that some query sees.
struct selection {
    int32_t cells[segment_size + lanes];
    int64_t count;
    bool plain;           // every query sees every cell, and the masks add nothing
    bool from_the_first;  // they are the segment's first ones
};

LUCID_AVX2 void select(const query * queries, int64_t count, int64_t first, selection & result) {
    uint64_t seen = 0;
    result.plain = true;
    const __m256i hidden = _mm256_set1_epi16(short(unseen));
    for (int64_t q = 0; q < count; q++) {
        const uint16_t * const mask = queries[q].mask;
        if (mask == nullptr) {
            seen = ~uint64_t(0);
            continue;
        }
        for (int64_t i = 0; i < segment_size; i += 16) {
            const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(mask + first + i));
            const __m256i equal = _mm256_permute4x64_epi64(
                _mm256_packs_epi16(_mm256_cmpeq_epi16(some, hidden), _mm256_setzero_si256()), 0x08);
            seen |= uint64_t(uint16_t(~_mm256_movemask_epi8(equal))) << i;
            result.plain &= bool(_mm256_testz_si256(some, some));
        }
    }
    int64_t n = 0;
    for (uint64_t left = seen; left != 0; left &= left - 1) {
        result.cells[n++] = int32_t(first + __builtin_ctzll(left));
    }
    result.count = n;
    result.from_the_first = n == segment_size || seen == (uint64_t(1) << n) - 1;
    for (int i = 0; n > 0 && i < lanes; i++) {
        result.cells[n + i] = result.cells[n - 1];  // what is computed in excess, it must be possible to read
    }
}

// Processors do not foresee which cells come next, as those of other heads lie between them.
inline void prefetch(const uint16_t * from, int64_t length) {
    for (int64_t i = 0; i < length; i += 32) {  // a cache line
        __builtin_prefetch(from + i);
    }
}

// scores[q][i] = queries[q] . keys[selected[i]], for as many as `Cells` divides.
template <int Queries, int Cells>
LUCID_AVX2 void score(const query * queries, const cells & keys, int64_t length, const cells & values,
                      int64_t value_length, const selection & selected, float (*scores)[segment_size + lanes]) {
    static_assert(Cells % 4 == 0);
    for (int64_t i = 0; i < selected.count; i += Cells) {
        for (int c = 0; c < Cells; c++) {
            const int64_t cell = selected.cells[i + c];
            prefetch(keys.at(cell + ahead), length);
            prefetch(values.at(cell), value_length);
        }
        const uint16_t * key[Cells];
        __m256 total[Queries][Cells];
#pragma GCC unroll 8
        for (int c = 0; c < Cells; c++) {
            key[c] = keys.at(selected.cells[i + c]);
#pragma GCC unroll 4
            for (int q = 0; q < Queries; q++) {
                total[q][c] = _mm256_setzero_ps();
            }
        }
        for (int64_t d = 0; d < length; d += lanes) {
            __m256 value[Queries];
#pragma GCC unroll 4
            for (int q = 0; q < Queries; q++) {
                value[q] = _mm256_loadu_ps(queries[q].values + d);
            }
#pragma GCC unroll 8
            for (int c = 0; c < Cells; c++) {
                const __m256 some = load_half(key[c] + d);
#pragma GCC unroll 4
                for (int q = 0; q < Queries; q++) {
                    total[q][c] = _mm256_fmadd_ps(value[q], some, total[q][c]);
                }
            }
        }
#pragma GCC unroll 4
        for (int q = 0; q < Queries; q++) {
#pragma GCC unroll 2
            for (int c = 0; c < Cells; c += 4) {
                _mm_storeu_ps(scores[q] + i + c, sums(total[q][c], total[q][c + 1], total[q][c + 2], total[q][c + 3]));
            }
        }
    }
}

// Scores become weights: exp(score - largest), 0 for cells that the query must not see. Returns the largest score and
// the sum of the weights, each cell's added in the same order whatever other cells are selected.
LUCID_AVX2 void weigh(const query & query, const selection & selected, int64_t first, float scale, float * scores,
                      state & result) {
    for (int64_t i = 0; i < selected.count; i += lanes) {
        _mm256_storeu_ps(scores + i, _mm256_mul_ps(_mm256_loadu_ps(scores + i), _mm256_set1_ps(scale)));
    }
    if (!selected.plain && query.mask != nullptr) {
        for (int64_t i = 0; i < selected.count; i++) {
            const uint16_t more = query.mask[selected.cells[i]];
            if (more == unseen) {
                scores[i] = -INFINITY;  // whatever the score of what it must not see
            } else if (more != 0) {
                scores[i] += _cvtsh_ss(more);
            }
        }
    }
    for (int64_t i = selected.count; i % lanes != 0; i++) {
        scores[i] = -INFINITY;
    }
    __m256 largest = _mm256_set1_ps(-INFINITY);
    for (int64_t i = 0; i < selected.count; i += lanes) {
        largest = _mm256_max_ps(largest, _mm256_loadu_ps(scores + i));
    }
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    result.maximum = _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    const __m256 from = _mm256_set1_ps(result.maximum == -INFINITY ? 0.0f : result.maximum);
    __m256 sum = _mm256_setzero_ps();
    for (int64_t i = 0; i < selected.count; i += lanes) {
        const __m256 weights = exponential(_mm256_sub_ps(_mm256_loadu_ps(scores + i), from));
        _mm256_storeu_ps(scores + i, weights);
        sum = _mm256_add_ps(sum, weights);
    }
    if (!selected.from_the_first) {
        float in_place[segment_size] = {};
        for (int64_t i = 0; i < selected.count; i++) {
            in_place[selected.cells[i] - first] = scores[i];
        }
        sum = _mm256_setzero_ps();
        for (int64_t i = 0; i < segment_size; i += lanes) {
            sum = _mm256_add_ps(sum, _mm256_loadu_ps(in_place + i));
        }
    }
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    result.sum = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// `Registers` * lanes dimensions of the weighted values, from dimension `d` on.
template <int Queries, int Registers>
LUCID_AVX2 void gather(const cells & values, const selection & selected, const float (*weights)[segment_size + lanes],
                       int64_t d, state * states) {
    __m256 total[Queries][Registers];
#pragma GCC unroll 4
    for (int q = 0; q < Queries; q++) {
#pragma GCC unroll 8
        for (int r = 0; r < Registers; r++) {
            total[q][r] = _mm256_setzero_ps();
        }
    }
    for (int64_t i = 0; i < selected.count; i++) {
        const uint16_t * const value = values.at(selected.cells[i]) + d;
        __m256 weight[Queries];
#pragma GCC unroll 4
        for (int q = 0; q < Queries; q++) {
            weight[q] = _mm256_broadcast_ss(weights[q] + i);
        }
#pragma GCC unroll 8
        for (int r = 0; r < Registers; r++) {
            const __m256 some = load_half(value + lanes * r);
#pragma GCC unroll 4
            for (int q = 0; q < Queries; q++) {
                total[q][r] = _mm256_fmadd_ps(weight[q], some, total[q][r]);
            }
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < Queries; q++) {
#pragma GCC unroll 8
        for (int r = 0; r < Registers; r++) {
            _mm256_storeu_ps(states[q].values + d + lanes * r, total[q][r]);
        }
    }
}

template <int Queries, int Cells, int Registers>
LUCID_AVX2 void attend_some(const query * queries, const cells & keys, int64_t key_length, const cells & values,
                            int64_t value_length, int64_t first, float scale, state * states) {
    selection selected;
    select(queries, Queries, first, selected);
    if (selected.count == 0) {
        for (int q = 0; q < Queries; q++) {
            states[q].sum = 0.0f;
        }
        return;
    }
    float weights[Queries][segment_size + lanes];
    score<Queries, Cells>(queries, keys, key_length, values, value_length, selected, weights);
    for (int q = 0; q < Queries; q++) {
        weigh(queries[q], selected, first, scale, weights[q], states[q]);
    }
    int64_t d = 0;
    for (; d + lanes * Registers <= value_length; d += lanes * Registers) {
        gather<Queries, Registers>(values, selected, weights, d, states);
    }
    for (; d < value_length; d += lanes * 2) {
        gather<Queries, 2>(values, selected, weights, d, states);
    }
}

}  // namespace

void attend(const query * queries, int64_t count, const cells & keys, int64_t key_length, const cells & values,
            int64_t value_length, int64_t first, float scale, state * states) {
    switch (count) {
        case 1: return attend_some<1, 8, 8>(queries, keys, key_length, values, value_length, first, scale, states);
        case 2: return attend_some<2, 4, 4>(queries, keys, key_length, values, value_length, first, scale, states);
        case 3: return attend_some<3, 4, 4>(queries, keys, key_length, values, value_length, first, scale, states);
    }
}

#else

void attend(const query *, int64_t, const cells &, int64_t, const cells &, int64_t, int64_t, float, state *) {}

#endif

}  // namespace lucid::attention
