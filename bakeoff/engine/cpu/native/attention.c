/* Causal attention of documents that stand one after another in a row, with rotary positions, forward and backward. A
   job is a document and one of its key heads, the last document, often the longest, first. Scores stand keys x queries,
   so many at a time that they stay in the nearest cache: a vector is a key's scores for 16 queries, and what goes along
   the keys is done from vector to vector. No job depends on another nor on the number of threads. */

#include "products.h"

#define KEYS 64 /* that QUERIES queries of a head see at a time */

/* What functions are told of their matrices. */
typedef struct {
    int64_t group, many;    /* query heads that share a key head, and their queries at a time */
    int64_t most, full;     /* the longest document's tokens and a head's width, padded */
    int64_t tokens, apart;  /* of all documents, and from a head's numbers to the next one's */
    int64_t stride, of_out; /* from a token's numbers to the next one's, before and after the attention */
} Shape;

/* Of tokens x n_heads x head_dim, or of n_heads x tokens x head_dim, if `by_head`. */
static Shape shape_of(int64_t tokens, int64_t longest, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim,
                      int64_t by_head) {
    int64_t group = n_heads / n_kv_heads;
    return (Shape){.group = group,
                   .many = group * QUERIES,
                   .most = padded(longest),
                   .full = padded(head_dim),
                   .tokens = tokens,
                   .apart = by_head ? tokens * head_dim : head_dim,
                   .stride = by_head ? head_dim : (n_heads + 2 * n_kv_heads) * head_dim,
                   .of_out = by_head ? head_dim : n_heads * head_dim};
}

/* How many of so many keys are seen at a time from key `first` on. */
static inline int64_t keys_in_block(int64_t keys, int64_t first) { return keys - first < KEYS ? keys - first : KEYS; }

/* Makes scores (keys x QUERIES) -infinity where a key comes after its query. The first key is token `first` of the
   document, the first query is token `start`. */
static void mask_causal(float *scores, int64_t first, int64_t keys, int64_t start) {
    for (int64_t j = start > first ? start - first : 0; j < keys; j++)
#pragma omp simd
        for (int64_t i = 0; i < QUERIES; i++)
            if (first + j > start + i) scores[j * QUERIES + i] = -INFINITY;
}

/* e^(score scaling - reference) of keys x QUERIES scores, PAIR keys interleaved, and added to `sums`. The reference
   is what was highest once. Where a score is so much higher that its power could leave the range, it becomes the
   reference, and `sums` and `across` (head_dim x QUERIES), which are by the one before, are scaled. */
static void online_softmax(const float *scores, int64_t keys, float scaling, float limit, float *reference, float *sums,
                           float *across, int64_t head_dim, Word *to) {
    float highest[QUERIES], factor[QUERIES];
    int risen = 0;
    for (int64_t i = 0; i < QUERIES; i++) highest[i] = -INFINITY;
    for (int64_t j = 0; j < keys; j++)
#pragma omp simd
        for (int64_t i = 0; i < QUERIES; i++)
            highest[i] = scores[j * QUERIES + i] > highest[i] ? scores[j * QUERIES + i] : highest[i];
#pragma omp simd reduction(| : risen)
    for (int64_t i = 0; i < QUERIES; i++) risen |= highest[i] * scaling > reference[i] + 40.0f;
    if (risen) {
        for (int64_t i = 0; i < QUERIES; i++) {
            float before = reference[i], now = highest[i] * scaling;
            reference[i] = now > before ? now : before;
            factor[i] = expf(before - reference[i]);
            sums[i] *= factor[i];
        }
        for (int64_t w = 0; w < head_dim; w++)
#pragma omp simd
            for (int64_t i = 0; i < QUERIES; i++) across[w * QUERIES + i] *= factor[i];
    }
    softmax_block(scores, keys, scaling, limit, reference, sums, to);
}

/* size x full numbers transposed, for each KEYS rows of them apart: what is multiplied by as many rows. */
static void transpose_parts(const T *from, Word *room, Word *to, int64_t size, int64_t full) {
    for (int64_t first = 0; first < size; first += KEYS) {
        int64_t some = keys_in_block(size, first);
        transpose(paired(from + first * full, room, some, full), to + first / PAIR * full, some / PAIR, full);
    }
}

/* rows          tokens x (n_heads + 2 n_kv_heads) x head_dim: queries, keys, values before their positions
   cos, sin      tokens x head_dim
   out           tokens x n_heads x head_dim
   logsumexp     n_heads x tokens: logarithms of the softmax's sums, for the gradient; may be null
   offsets       documents + 1: each document's first token, and the end
   keys, values  cache rows x n_kv_heads x capacity x head_dim: keys with positions, and values, go to row
                 cache_rows[document]; nothing is kept where capacity is 0
   longest       the tokens of the longest document
   If `by_head`, tokens are the second dimension of rows and out. */
void attention_forward(const T *rows, const T *cos, const T *sin, T *out, float *logsumexp, const int64_t *offsets,
                       T *keys, T *values, const int64_t *cache_rows, int64_t capacity, float scaling,
                       int64_t documents, int64_t longest, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim,
                       int64_t by_head) {
    const Shape is = shape_of(offsets[documents], longest, n_heads, n_kv_heads, head_dim, by_head);
    const int64_t full = is.full, deep = full / PAIR, all = QUERIES * full;
    prefault(out, is.tokens * n_heads * head_dim * (int64_t)sizeof(T));
    float limit = bound();
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *key = allocate(&memory, is.most * full, sizeof(T)), *value = allocate(&memory, is.most * full, sizeof(T));
        Word *transposed = allocate(&memory, is.most * full, sizeof(T)),
             *room = allocate(&memory, KEYS * full, sizeof(T));
        T *query = allocate(&memory, all, sizeof(T));
        Word *queries = allocate(&memory, all, sizeof(T)), *weights = allocate(&memory, KEYS * QUERIES, sizeof(T));
        float *scores = allocate(&memory, KEYS * QUERIES, 4), *sums = allocate(&memory, QUERIES, 4);
        float *across = allocate(&memory, all, 4), *back = allocate(&memory, all, 4),
              *reference = allocate(&memory, QUERIES, 4);
        tiles_begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < documents * n_kv_heads; job++) {
            int64_t document = documents - 1 - job / n_kv_heads, head = job % n_kv_heads, at = offsets[document];
            int64_t length = offsets[document + 1] - at, size = padded(length);
            const T *row = rows + at * is.stride, *c = cos + at * head_dim, *s = sin + at * head_dim;
            gather(row + (n_heads + head) * is.apart, is.stride, c, s, key, 0, size, length, head_dim, full);
            gather(row + (n_heads + n_kv_heads + head) * is.apart, is.stride, 0, 0, value, 0, size, length, head_dim,
                   full);
            if (capacity) {
                int64_t to = (cache_rows[document] * n_kv_heads + head) * capacity * head_dim;
                for (int64_t i = 0; i < size; i++, to += head_dim) { /* with the zeros that attention_step() reads */
                    memcpy(keys + to, key + i * full, head_dim * sizeof(T));
                    memcpy(values + to, value + i * full, head_dim * sizeof(T));
                }
            }
            transpose_parts(value, room, transposed, size, full);
            for (int64_t block = 0; block < size / QUERIES * is.group; block++) {
                int64_t start = block / is.group * QUERIES, end = start + QUERIES,
                        own = head * is.group + block % is.group;
                gather(row + own * is.apart, is.stride, c, s, query, start, QUERIES, length, head_dim, full);
                transpose((Word *)query, queries, QUERIES, deep);
                memset(across, 0, all * 4);
                for (int64_t i = 0; i < QUERIES; i++) reference[i] = -INFINITY, sums[i] = 0;
                for (int64_t first = 0; first < end; first += KEYS) {
                    int64_t some = keys_in_block(end, first);
                    multiply((Word *)key + first * deep, deep, queries, QUERIES, scores, QUERIES, some, QUERIES, deep,
                             0);
                    if (first + some == end) mask_causal(scores, first, some, start);
                    online_softmax(scores, some, scaling, limit, reference, sums, across, full, weights);
                    multiply(transposed + first / PAIR * full, keys_in_block(size, first) / PAIR, weights, QUERIES,
                             across, QUERIES, full, QUERIES, some / PAIR, 1);
                }
                transpose((Word *)across, (Word *)back, full, QUERIES);
                for (int64_t i = 0; i < QUERIES && start + i < length; i++) {
                    T *to = out + own * is.apart + (at + start + i) * is.of_out;
                    float inverse_sum = 1.0f / sums[i];
                    if (logsumexp) logsumexp[own * is.tokens + at + start + i] = reference[i] + logf(sums[i]);
#pragma omp simd
                    for (int64_t w = 0; w < head_dim; w++) to[w] = narrow(back[i * full + w] * inverse_sum);
                }
            }
        }
        tiles_end(tiles);
        free_all(&memory);
    }
}

/* grad_rows (as rows) from grad_out (as out); it may overwrite rows. The other shapes are attention_forward's. What a
   query's probabilities times their gradients come to is taken from out (Dao et al. 2022, arXiv:2205.14135, section
   3.1), so that no more than KEYS of them are needed at a time. */
void attention_backward(const T *rows, const T *cos, const T *sin, const T *out, const T *grad_out,
                        const float *logsumexp, T *grad_rows, const int64_t *offsets, float scaling, int64_t documents,
                        int64_t longest, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim, int64_t by_head) {
    const Shape is = shape_of(offsets[documents], longest, n_heads, n_kv_heads, head_dim, by_head);
    const int64_t full = is.full, deep = full / PAIR, all = QUERIES * full, some_all = is.many * full;
    float limit = bound();
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *key = allocate(&memory, is.most * full, sizeof(T)), *value = allocate(&memory, is.most * full, sizeof(T));
        Word *transposed = allocate(&memory, is.most * full, sizeof(T)),
             *room = allocate(&memory, KEYS * full, sizeof(T));
        float *grad_key = allocate(&memory, is.most * full, 4), *grad_value = allocate(&memory, is.most * full, 4);
        T *query = allocate(&memory, some_all, sizeof(T)), *grad_output = allocate(&memory, some_all, sizeof(T));
        Word *queries = allocate(&memory, some_all, sizeof(T)), *grad_outputs = allocate(&memory, some_all, sizeof(T));
        Word *query_pairs = allocate(&memory, some_all, sizeof(T)),
             *grad_output_pairs = allocate(&memory, some_all, sizeof(T));
        float *grad_query = allocate(&memory, some_all, 4), *back = allocate(&memory, all, 4);
        float *scores = allocate(&memory, 32 * QUERIES, 4), *grad_scores = allocate(&memory, 32 * QUERIES, 4);
        T *probs = allocate(&memory, is.many * KEYS, sizeof(T)),
          *grad_probs = allocate(&memory, is.many * KEYS, sizeof(T));
        Word *pairs = allocate(&memory, is.many * KEYS, sizeof(T));
        float *log_sums = allocate(&memory, is.many, 4), *along = allocate(&memory, is.many, 4);
        tiles_begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < documents * n_kv_heads; job++) {
            int64_t document = documents - 1 - job / n_kv_heads, head = job % n_kv_heads, at = offsets[document];
            int64_t length = offsets[document + 1] - at, size = padded(length);
            int64_t key_offset = (n_heads + head) * is.apart, value_offset = (n_heads + n_kv_heads + head) * is.apart;
            const T *row = rows + at * is.stride, *c = cos + at * head_dim, *s = sin + at * head_dim;
            T *grad_row = grad_rows + at * is.stride;
            gather(row + key_offset, is.stride, c, s, key, 0, size, length, head_dim, full);
            gather(row + value_offset, is.stride, 0, 0, value, 0, size, length, head_dim, full);
            transpose_parts(key, room, transposed, size, full);
            memset(grad_key, 0, size * full * 4);
            memset(grad_value, 0, size * full * 4);
            for (int64_t start = 0, end = QUERIES; start < size; start = end, end += QUERIES) {
                for (int64_t g = 0; g < is.group; g++) {
                    int64_t own = (head * is.group + g) * is.apart;
                    const T *seen = out + at * is.of_out + own, *grad_seen = grad_out + at * is.of_out + own;
                    gather(row + own, is.stride, c, s, query + g * all, start, QUERIES, length, head_dim, full);
                    gather(grad_seen, is.of_out, 0, 0, grad_output + g * all, start, QUERIES, length, head_dim, full);
                    transpose((Word *)(query + g * all), queries + g * QUERIES * deep, QUERIES, deep);
                    transpose((Word *)(grad_output + g * all), grad_outputs + g * QUERIES * deep, QUERIES, deep);
                    for (int64_t i = 0, position = start; i < QUERIES; i++, position++) {
                        prefetch(seen, (position + QUERIES) * is.of_out, head_dim);
                        int64_t q = g * QUERIES + i, there = position < length;
                        along[q] = there ? dot(seen + position * is.of_out, grad_output + q * full, head_dim) : 0;
                        log_sums[q] = there ? logsumexp[(head * is.group + g) * is.tokens + at + position] : 0;
                    }
                }
                const Word *queries_interleaved = paired(query, query_pairs, is.many, full);
                const Word *grad_output_interleaved = paired(grad_output, grad_output_pairs, is.many, full);
                for (int64_t first = 0; first < end; first += KEYS) {
                    int64_t some = keys_in_block(end, first);
                    for (int64_t g = 0; g < is.group; g++)
                        for (int64_t j = 0, position = first; j < some; j += 32, position += 32) {
                            multiply((Word *)key + position * deep, deep, queries + g * QUERIES * deep, QUERIES, scores,
                                     QUERIES, 32, QUERIES, deep, 0);
                            multiply((Word *)value + position * deep, deep, grad_outputs + g * QUERIES * deep, QUERIES,
                                     grad_scores, QUERIES, 32, QUERIES, deep, 0);
                            if (position + 32 == end) mask_causal(scores, position, 32, start);
                            int64_t to = j * is.many + g * QUERIES;
                            softmax_block_backward(scores, grad_scores, 32, scaling, limit, log_sums + g * QUERIES,
                                                   along + g * QUERIES, probs + to, grad_probs + to, is.many,
                                                   pairs + (g * KEYS + j) / PAIR * QUERIES);
                        }
                    for (int64_t g = 0; g < is.group; g++)
                        multiply(transposed + first / PAIR * full, keys_in_block(size, first) / PAIR,
                                 pairs + g * KEYS / PAIR * QUERIES, QUERIES, grad_query + g * all, QUERIES, full,
                                 QUERIES, some / PAIR, first > 0);
                    multiply((Word *)grad_probs, is.many / PAIR, queries_interleaved, full, grad_key + first * full,
                             full, some, full, is.many / PAIR, 1);
                    multiply((Word *)probs, is.many / PAIR, grad_output_interleaved, full, grad_value + first * full,
                             full, some, full, is.many / PAIR, 1);
                }
                for (int64_t g = 0; g < is.group; g++) {
                    transpose((Word *)(grad_query + g * all), (Word *)back, full, QUERIES);
                    for (int64_t i = 0, position = start; i < QUERIES && position < length; i++, position++)
                        rope_backward(back + i * full, c + position * head_dim, s + position * head_dim,
                                      grad_row + position * is.stride + (head * is.group + g) * is.apart, head_dim);
                }
            }
            for (int64_t position = 0; position < length; position++) {
                T *to = grad_row + position * is.stride;
                rope_backward(grad_key + position * full, c + position * head_dim, s + position * head_dim,
                              to + key_offset, head_dim);
#pragma omp simd
                for (int64_t w = 0; w < head_dim; w++) to[value_offset + w] = narrow(grad_value[position * full + w]);
            }
        }
        tiles_end(tiles);
        free_all(&memory);
    }
}
