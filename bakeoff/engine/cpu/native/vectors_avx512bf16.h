/* What vectors_serial.h computes, by AVX-512 with its bf16 instructions: T is bf16. */

#pragma once

/* 2^t for what is rounded to bf16 next: 2^n, n whole, times a polynomial of t - n, the best of its degree (2.6e-6
   off) */
INLINE __m512 powers(__m512 t) {
    __m512 r = _mm512_reduce_ps(t, 1), p = _mm512_set1_ps(0.0135341799f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0520114303f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.241442785f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.693003833f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.00000262f));
    return _mm512_scalef_ps(p, t);
}

/* 16 numbers as fp32, and such ones rounded */
INLINE __m512 wide(const T *from) {
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}

INLINE void put_narrow(T *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }

static inline void rope_avx512bf16(const T *from, const T *cos, const T *sin, T *to, int64_t head_dim) {
    int64_t half = head_dim / 2, i = 0;
    for (; i + 16 <= half; i += 16) {
        __m512 a = wide(from + i), b = wide(from + i + half);
        put_narrow(to + i, _mm512_fmsub_ps(a, wide(cos + i), _mm512_mul_ps(b, wide(sin + i))));
        put_narrow(to + i + half, _mm512_fmadd_ps(b, wide(cos + i + half), _mm512_mul_ps(a, wide(sin + i + half))));
    }
    rope_from(from, cos, sin, to, head_dim, i);
}

static inline void rope_backward_avx512bf16(const float *from, const T *cos, const T *sin, T *to, int64_t head_dim) {
    int64_t half = head_dim / 2, i = 0;
    for (; i + 16 <= half; i += 16) {
        __m512 a = _mm512_loadu_ps(from + i), b = _mm512_loadu_ps(from + i + half);
        put_narrow(to + i, _mm512_fmadd_ps(a, wide(cos + i), _mm512_mul_ps(b, wide(sin + i + half))));
        put_narrow(to + i + half, _mm512_fmsub_ps(b, wide(cos + i + half), _mm512_mul_ps(a, wide(sin + i))));
    }
    rope_backward_from(from, cos, sin, to, head_dim, i);
}

static inline void narrow_all_avx512bf16(const float *from, T *to, int64_t size) {
    for (int64_t i = 0; i < size; i += 32)
        _mm512_storeu_si512(to + i,
                            (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i)));
}

static inline void copy_row_avx512bf16(const T *from, T *to, int64_t size) {
    if (size % 32 == 0) {
        for (int64_t i = 0; i < size; i += 32) _mm512_storeu_si512(to + i, _mm512_loadu_si512(from + i));
        return;
    }
    copy_row_serial(from, to, size);
}

static inline float dot_avx512bf16(const T *a, const T *b, int64_t size) {
    int64_t i = 0;
    __m512 sums = _mm512_setzero_ps();
    for (; i + 16 <= size; i += 16) sums = _mm512_fmadd_ps(wide(a + i), wide(b + i), sums);
    float sum = _mm512_reduce_add_ps(sums);
    for (; i < size; i++) sum += load(a[i]) * load(b[i]);
    return sum;
}

/* Two bf16 to a word: 16 of an even row, and of the odd one after it. */
INLINE void interleave_avx512bf16(Word *to, __m512 even, __m512 odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even)));
}

static inline void softmax_block_avx512bf16(const float *scores, int64_t keys, float scaling, float limit,
                                            const float *reference, float *sums, Word *to) {
    const __m512 by = _mm512_set1_ps(scaling * LOG2_E);
    for (int64_t half = 0; half < QUERIES; half += 16) {
        __m512 less = _mm512_mul_ps(_mm512_loadu_ps(reference + half), _mm512_set1_ps(LOG2_E));
        __m512 low = _mm512_loadu_ps(sums + half), high = _mm512_setzero_ps();
        for (int64_t j = 0; j < keys; j += 2) {
            const float *from = scores + j * QUERIES + half;
            __m512 even = powers(_mm512_fmsub_ps(_mm512_loadu_ps(from), by, less));
            __m512 odd = powers(_mm512_fmsub_ps(_mm512_loadu_ps(from + QUERIES), by, less));
            low = _mm512_add_ps(low, even), high = _mm512_add_ps(high, odd);
            interleave_avx512bf16(to + j / 2 * QUERIES + half, even, odd);
        }
        _mm512_storeu_ps(sums + half, _mm512_add_ps(low, high));
    }
    (void)limit;
}

static inline void softmax_block_backward_avx512bf16(const float *scores, const float *g, int64_t keys, float scaling,
                                                     float limit, const float *logsumexp, const float *along, T *probs,
                                                     T *grad_scores, int64_t stride, Word *pairs) {
    const __m512 by = _mm512_set1_ps(scaling * LOG2_E), scale = _mm512_set1_ps(scaling);
    __m512 less[2], middle[2], p[2], grad[2][2];
    for (int half = 0; half < 2; half++) {
        less[half] = _mm512_mul_ps(_mm512_loadu_ps(logsumexp + half * 16), _mm512_set1_ps(LOG2_E));
        middle[half] = _mm512_mul_ps(_mm512_loadu_ps(along + half * 16), scale);
    }
    for (int64_t j = 0; j < keys; j += 2) {
        for (int odd = 0; odd < 2; odd++) {
            for (int half = 0; half < 2; half++) {
                int64_t at = (j + odd) * QUERIES + half * 16;
                p[half] = powers(_mm512_fmsub_ps(_mm512_loadu_ps(scores + at), by, less[half]));
                grad[odd][half] = _mm512_mul_ps(p[half], _mm512_fmsub_ps(_mm512_loadu_ps(g + at), scale, middle[half]));
            }
            _mm512_storeu_si512(probs + (j + odd) * stride, (__m512i)_mm512_cvtne2ps_pbh(p[1], p[0]));
            _mm512_storeu_si512(grad_scores + (j + odd) * stride,
                                (__m512i)_mm512_cvtne2ps_pbh(grad[odd][1], grad[odd][0]));
        }
        for (int half = 0; half < 2; half++)
            interleave_avx512bf16(pairs + j / 2 * QUERIES + half * 16, grad[0][half], grad[1][half]);
    }
    (void)limit;
}

static inline float softmax_row_avx512bf16(float *score, int64_t size, float highest, float scaling, float limit,
                                           T *to) {
    __m512 by = _mm512_set1_ps(scaling * LOG2_E), less = _mm512_set1_ps(highest * scaling * LOG2_E);
    __m512 totals = _mm512_setzero_ps();
    for (int64_t j = 0; j < size; j += 32) {
        __m512 low = powers(_mm512_fmsub_ps(_mm512_loadu_ps(score + j), by, less));
        __m512 high = powers(_mm512_fmsub_ps(_mm512_loadu_ps(score + j + 16), by, less));
        totals = _mm512_add_ps(totals, _mm512_add_ps(low, high));
        _mm512_storeu_si512(to + j, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    (void)limit;
    return _mm512_reduce_add_ps(totals);
}
