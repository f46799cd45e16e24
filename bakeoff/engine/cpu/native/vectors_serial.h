/* Rotary positions, softmax and rounding in plain C, for every processor: the reference of vectors_avx512bf16.h. */

#pragma once

/* Rotary positions (Su et al. 2021, arXiv:2104.09864) with halves paired, from number `first` of each half on:
   `to` (head_dim) from `from`, `cos` and `sin` (head_dim each). */
static inline void rope_from(const T *from, const T *cos, const T *sin, T *to, int64_t head_dim, int64_t first) {
    int64_t half = head_dim / 2;
#pragma omp simd
    for (int64_t j = first; j < half; j++) {
        float a = load(from[j]), b = load(from[j + half]);
        to[j] = narrow(a * load(cos[j]) - b * load(sin[j]));
        to[j + half] = narrow(b * load(cos[j + half]) + a * load(sin[j + half]));
    }
}

static inline void rope_serial(const T *from, const T *cos, const T *sin, T *to, int64_t head_dim) {
    rope_from(from, cos, sin, to, head_dim, 0);
}

/* The gradient of rope's `from` (head_dim), from that of its result in fp32. */
static inline void rope_backward_from(const float *from, const T *cos, const T *sin, T *to, int64_t head_dim,
                                      int64_t first) {
    int64_t half = head_dim / 2;
#pragma omp simd
    for (int64_t j = first; j < half; j++) {
        float a = from[j], b = from[j + half];
        to[j] = narrow(a * load(cos[j]) + b * load(sin[j + half]));
        to[j + half] = narrow(b * load(cos[j + half]) - a * load(sin[j]));
    }
}

static inline void rope_backward_serial(const float *from, const T *cos, const T *sin, T *to, int64_t head_dim) {
    rope_backward_from(from, cos, sin, to, head_dim, 0);
}

/* `size` numbers, a multiple of 32 */
static inline void narrow_all_serial(const float *from, T *to, int64_t size) {
#pragma omp simd
    for (int64_t i = 0; i < size; i++) to[i] = narrow(from[i]);
}

static inline void copy_row_serial(const T *from, T *to, int64_t size) { memcpy(to, from, size * sizeof(T)); }

static inline float dot_serial(const T *a, const T *b, int64_t size) {
    float sum = 0;
    for (int64_t i = 0; i < size; i++) sum += load(a[i]) * load(b[i]);
    return sum;
}

/* QUERIES numbers of an even row and of the odd one after it, PAIR rows interleaved. */
static inline void interleave_serial(Word *to, const float *even, const float *odd) {
#ifdef BF16
#pragma omp simd
    for (int64_t i = 0; i < QUERIES; i++) to[i] = (Word)narrow(even[i]) | (Word)narrow(odd[i]) << 16;
#else
#pragma omp simd
    for (int64_t i = 0; i < QUERIES; i++) ((float *)to)[i] = even[i], ((float *)to)[QUERIES + i] = odd[i];
#endif
}

/* e^(score scaling - reference) of `scores` (keys x QUERIES), PAIR keys interleaved, and added to `sums` (QUERIES). */
static inline void softmax_block_serial(const float *scores, int64_t keys, float scaling, float limit,
                                        const float *reference, float *sums, Word *to) {
    for (int64_t j = 0; j < keys; j += 2) {
        const float *from = scores + j * QUERIES;
        float even[QUERIES], odd[QUERIES];
#pragma omp simd
        for (int64_t i = 0; i < QUERIES; i++) {
            even[i] = exponential(from[i] * scaling - reference[i], limit);
            even[i] = from[i] == -INFINITY ? 0 : even[i];
            odd[i] = exponential(from[QUERIES + i] * scaling - reference[i], limit);
            odd[i] = from[QUERIES + i] == -INFINITY ? 0 : odd[i];
            sums[i] += even[i] + odd[i];
        }
        interleave_serial(to + j / PAIR * QUERIES, even, odd);
    }
}

/* Probabilities p = e^(score scaling - logsumexp) of `scores` (keys x QUERIES), and the gradient of the scores,
   p (g - along) scaling, from g (keys x QUERIES), that of the probabilities: rows of `stride` numbers, and the gradient
   with PAIR keys interleaved, too. */
static inline void softmax_block_backward_serial(const float *scores, const float *g, int64_t keys, float scaling,
                                                 float limit, const float *logsumexp, const float *along, T *probs,
                                                 T *grad_scores, int64_t stride, Word *pairs) {
    float grad[2][QUERIES];
    for (int64_t j = 0; j < keys; j++) {
#pragma omp simd
        for (int64_t i = 0; i < QUERIES; i++) {
            float score = scores[j * QUERIES + i], prob = exponential(score * scaling - logsumexp[i], limit);
            /* products of what is left of it would be denormal, which is slow */
            prob = score == -INFINITY ? 0 : prob;
            grad[j % 2][i] = prob * (g[j * QUERIES + i] - along[i]) * scaling;
            probs[j * stride + i] = narrow(prob);
            grad_scores[j * stride + i] = narrow(grad[j % 2][i]);
        }
        if (j % 2) interleave_serial(pairs + (j - 1) / PAIR * QUERIES, grad[0], grad[1]);
    }
}

/* e^((score - highest) scaling) of `size` scores, a multiple of 32, narrowed; their sum. Overwrites the scores. */
static inline float softmax_row_serial(float *score, int64_t size, float highest, float scaling, float limit, T *to) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < size; j++) total += score[j] = exponential((score[j] - highest) * scaling, limit);
    narrow_all_serial(score, to, size);
    return total;
}
