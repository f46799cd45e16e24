/* Causal attention of documents that stand one after another in a row, with rotary positions, forward and backward. A
   job is a document and one of its key heads, the last document, often the longest, first. Scores stand keys x queries,
   so many at a time that they stay in the nearest cache: a vector is a key's scores for 16 queries, and what goes along
   the keys is done from vector to vector. No job depends on another nor on the number of threads. */

#include "products.h"

#define QUERIES 32 /* of a head at a time */
#define KEYS 64    /* that they see at a time */

/* What functions are told of their matrices. */
typedef struct {
    int64_t group, many;   /* heads that share a key head, and their queries at a time */
    int64_t most, full;    /* the longest document's tokens and a head's width, padded */
    int64_t tokens, apart; /* of all documents, and from a head's numbers to the next one's */
    int64_t stride, of_out; /* from a token's numbers to the next one's, before and after the attention */
} Shape;

/* Of tokens x heads x width, or of heads x tokens x width, if `by_head`. */
static Shape shape_of(int64_t tokens, int64_t longest, int64_t heads, int64_t kept, int64_t width, int64_t by_head) {
    int64_t group = heads / kept;
    return (Shape){.group = group,
                   .many = group * QUERIES,
                   .most = padded(longest),
                   .full = padded(width),
                   .tokens = tokens,
                   .apart = by_head ? tokens * width : width,
                   .stride = by_head ? width : (heads + 2 * kept) * width,
                   .of_out = by_head ? width : heads * width};
}

/* How many of so many keys are seen at a time from place `first` on. */
static inline int64_t some_of(int64_t keys, int64_t first) { return keys - first < KEYS ? keys - first : KEYS; }

/* Scores (keys x QUERIES) of keys from place `first` that come after their queries, which are from place `start` on,
   don't count. */
static void hide(float *scores, int64_t first, int64_t keys, int64_t start) {
    for (int64_t j = start > first ? start - first : 0; j < keys; j++)
#pragma omp simd
        for (int64_t i = 0; i < QUERIES; i++)
            if (first + j > start + i) scores[j * QUERIES + i] = -INFINITY;
}

#ifdef VECTORS
/* Two bf16 to a word: 16 of an even row, and of the odd one after it. */
INLINE void put_pairs(Word *to, __m512 even, __m512 odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even)));
}
#else
/* QUERIES numbers of an even row and of the odd one after it, PAIR rows interleaved. */
static inline void put_pairs(Word *to, const float *even, const float *odd) {
#pragma omp simd
    for (int64_t i = 0; i < QUERIES; i++) {
#ifdef BF16
        to[i] = (Word)narrow(even[i]) | (Word)narrow(odd[i]) << 16;
#else
        ((float *)to)[i] = even[i], ((float *)to)[QUERIES + i] = odd[i];
#endif
    }
}
#endif

/* e^(score scaling - reference) of keys x QUERIES scores, PAIR keys interleaved, and added to `sums`. The reference is
   what was highest once. Where a score is so much higher that its power could leave the range, it takes its place, and
   `sums` and `across` (width x QUERIES), which are by the one before, are scaled. */
static void weigh(const float *scores, int64_t keys, float scaling, float limit, float *reference, float *sums,
                  float *across, int64_t width, Word *to) {
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
        for (int64_t w = 0; w < width; w++)
#pragma omp simd
            for (int64_t i = 0; i < QUERIES; i++) across[w * QUERIES + i] *= factor[i];
    }
#ifdef VECTORS
    const __m512 by = _mm512_set1_ps(scaling * LOG2_E);
    for (int64_t half = 0; half < QUERIES; half += 16) {
        __m512 less = _mm512_mul_ps(_mm512_loadu_ps(reference + half), _mm512_set1_ps(LOG2_E));
        __m512 low = _mm512_loadu_ps(sums + half), high = _mm512_setzero_ps();
        for (int64_t j = 0; j < keys; j += 2) {
            const float *from = scores + j * QUERIES + half;
            __m512 even = powers(_mm512_fmsub_ps(_mm512_loadu_ps(from), by, less));
            __m512 odd = powers(_mm512_fmsub_ps(_mm512_loadu_ps(from + QUERIES), by, less));
            low = _mm512_add_ps(low, even), high = _mm512_add_ps(high, odd);
            put_pairs(to + j / 2 * QUERIES + half, even, odd);
        }
        _mm512_storeu_ps(sums + half, _mm512_add_ps(low, high));
    }
    (void)limit;
#else
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
        put_pairs(to + j / PAIR * QUERIES, even, odd);
    }
#endif
}

/* Shares p = e^(score scaling - log) of keys x QUERIES scores, and the gradient of these, p (g - along) scaling, from
   g, that of the shares: rows of `stride` numbers, and the gradient with PAIR keys interleaved, too. */
static void weigh_backward(const float *scores, const float *g, int64_t keys, float scaling, float limit,
                           const float *log, const float *along, T *shares, T *of_shares, int64_t stride, Word *pairs) {
#ifdef VECTORS
    const __m512 by = _mm512_set1_ps(scaling * LOG2_E), scale = _mm512_set1_ps(scaling);
    __m512 less[2], middle[2], p[2], of[2][2];
    for (int half = 0; half < 2; half++) {
        less[half] = _mm512_mul_ps(_mm512_loadu_ps(log + half * 16), _mm512_set1_ps(LOG2_E));
        middle[half] = _mm512_mul_ps(_mm512_loadu_ps(along + half * 16), scale);
    }
    for (int64_t j = 0; j < keys; j += 2) {
        for (int odd = 0; odd < 2; odd++) {
            for (int half = 0; half < 2; half++) {
                int64_t at = (j + odd) * QUERIES + half * 16;
                p[half] = powers(_mm512_fmsub_ps(_mm512_loadu_ps(scores + at), by, less[half]));
                of[odd][half] = _mm512_mul_ps(p[half], _mm512_fmsub_ps(_mm512_loadu_ps(g + at), scale, middle[half]));
            }
            _mm512_storeu_si512(shares + (j + odd) * stride, (__m512i)_mm512_cvtne2ps_pbh(p[1], p[0]));
            _mm512_storeu_si512(of_shares + (j + odd) * stride, (__m512i)_mm512_cvtne2ps_pbh(of[odd][1], of[odd][0]));
        }
        for (int half = 0; half < 2; half++) put_pairs(pairs + j / 2 * QUERIES + half * 16, of[0][half], of[1][half]);
    }
    (void)limit;
#else
    float of[2][QUERIES];
    for (int64_t j = 0; j < keys; j++) {
#pragma omp simd
        for (int64_t i = 0; i < QUERIES; i++) {
            float score = scores[j * QUERIES + i], share = exponential(score * scaling - log[i], limit);
            /* products of what is left of it would be denormal, which is slow */
            share = score == -INFINITY ? 0 : share;
            of[j % 2][i] = share * (g[j * QUERIES + i] - along[i]) * scaling;
            shares[j * stride + i] = narrow(share);
            of_shares[j * stride + i] = narrow(of[j % 2][i]);
        }
        if (j % 2) put_pairs(pairs + (j - 1) / PAIR * QUERIES, of[0], of[1]);
    }
#endif
}

static inline float inner(const T *a, const T *b, int64_t width) {
    int64_t i = 0;
    float sum = 0;
#ifdef VECTORS
    __m512 sums = _mm512_setzero_ps();
    for (; i + 16 <= width; i += 16) sums = _mm512_fmadd_ps(wide(a + i), wide(b + i), sums);
    sum = _mm512_reduce_add_ps(sums);
#endif
    for (; i < width; i++) sum += load(a[i]) * load(b[i]);
    return sum;
}

/* size x full numbers turned, for each KEYS rows of them apart: what is multiplied by as many rows. */
static void turn_parts(const T *from, Word *room, Word *to, int64_t size, int64_t full) {
    for (int64_t first = 0; first < size; first += KEYS) {
        int64_t some = some_of(size, first);
        transpose(paired(from + first * full, room, some, full), to + first / PAIR * full, some / PAIR, full);
    }
}

/* tokens x heads x width from tokens x (heads + 2 kept) x width before their positions, or with tokens second, if
   `by_head`. `starts` are the documents' first tokens and the end. `logs` (heads x tokens), if any, are for the
   gradient: the logarithms of the softmax's sums. The turned keys and the values go to row `places[document]` of the
   cache, if there is one. */
void attend(const T *rows, const T *cos, const T *sin, T *out, float *logs, const int64_t *starts, T *keys, T *values,
            const int64_t *places, int64_t capacity, float scaling, int64_t documents, int64_t longest, int64_t heads,
            int64_t kept, int64_t width, int64_t by_head) {
    const Shape is = shape_of(starts[documents], longest, heads, kept, width, by_head);
    const int64_t full = is.full, deep = full / PAIR, all = QUERIES * full;
    fresh(out, is.tokens * heads * width * (int64_t)sizeof(T));
    float limit = bound();
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *key = take(&memory, is.most * full, sizeof(T)), *value = take(&memory, is.most * full, sizeof(T));
        Word *turned = take(&memory, is.most * full, sizeof(T)), *room = take(&memory, KEYS * full, sizeof(T));
        T *query = take(&memory, all, sizeof(T));
        Word *queries = take(&memory, all, sizeof(T)), *weights = take(&memory, KEYS * QUERIES, sizeof(T));
        float *scores = take(&memory, KEYS * QUERIES, 4), *sums = take(&memory, QUERIES, 4);
        float *across = take(&memory, all, 4), *back = take(&memory, all, 4), *reference = take(&memory, QUERIES, 4);
        begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < documents * kept; job++) {
            int64_t document = documents - 1 - job / kept, head = job % kept, at = starts[document];
            int64_t length = starts[document + 1] - at, size = padded(length);
            const T *row = rows + at * is.stride, *c = cos + at * width, *s = sin + at * width;
            gather(row + (heads + head) * is.apart, is.stride, c, s, key, 0, size, length, width, full);
            gather(row + (heads + kept + head) * is.apart, is.stride, 0, 0, value, 0, size, length, width, full);
            if (capacity) {
                int64_t to = (places[document] * kept + head) * capacity * width;
                for (int64_t i = 0; i < size; i++, to += width) { /* with the zeros that step() reads */
                    memcpy(keys + to, key + i * full, width * sizeof(T));
                    memcpy(values + to, value + i * full, width * sizeof(T));
                }
            }
            turn_parts(value, room, turned, size, full);
            for (int64_t block = 0; block < size / QUERIES * is.group; block++) {
                int64_t start = block / is.group * QUERIES, end = start + QUERIES,
                        own = head * is.group + block % is.group;
                gather(row + own * is.apart, is.stride, c, s, query, start, QUERIES, length, width, full);
                transpose((Word *)query, queries, QUERIES, deep);
                memset(across, 0, all * 4);
                for (int64_t i = 0; i < QUERIES; i++) reference[i] = -INFINITY, sums[i] = 0;
                for (int64_t first = 0; first < end; first += KEYS) {
                    int64_t some = some_of(end, first);
                    multiply((Word *)key + first * deep, deep, queries, QUERIES, scores, QUERIES, some, QUERIES, deep,
                             0);
                    if (first + some == end) hide(scores, first, some, start);
                    weigh(scores, some, scaling, limit, reference, sums, across, full, weights);
                    multiply(turned + first / PAIR * full, some_of(size, first) / PAIR, weights, QUERIES, across,
                             QUERIES, full, QUERIES, some / PAIR, 1);
                }
                transpose((Word *)across, (Word *)back, full, QUERIES);
                for (int64_t i = 0; i < QUERIES && start + i < length; i++) {
                    T *to = out + own * is.apart + (at + start + i) * is.of_out;
                    float share = 1.0f / sums[i];
                    if (logs) logs[own * is.tokens + at + start + i] = reference[i] + logf(sums[i]);
#pragma omp simd
                    for (int64_t w = 0; w < width; w++) to[w] = narrow(back[i * full + w] * share);
                }
            }
        }
        end(tiles);
        leave(&memory);
    }
}

/* The gradient of `rows` from that of `out`, `given`. What a query's shares times their gradients come to is taken from
   `out` (Dao et al. 2022, arXiv:2205.14135, section 3.1), so that no more than KEYS of them are needed at a time. */
void attend_backward(const T *rows, const T *cos, const T *sin, const T *out, const T *given, const float *logs,
                     T *of_rows, const int64_t *starts, float scaling, int64_t documents, int64_t longest,
                     int64_t heads, int64_t kept, int64_t width, int64_t by_head) {
    const Shape is = shape_of(starts[documents], longest, heads, kept, width, by_head);
    const int64_t full = is.full, deep = full / PAIR, all = QUERIES * full, some_all = is.many * full;
    float limit = bound();
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *key = take(&memory, is.most * full, sizeof(T)), *value = take(&memory, is.most * full, sizeof(T));
        Word *turned = take(&memory, is.most * full, sizeof(T)), *room = take(&memory, KEYS * full, sizeof(T));
        float *of_key = take(&memory, is.most * full, 4), *of_value = take(&memory, is.most * full, 4);
        T *query = take(&memory, some_all, sizeof(T)), *outward = take(&memory, some_all, sizeof(T));
        Word *queries = take(&memory, some_all, sizeof(T)), *outwards = take(&memory, some_all, sizeof(T));
        Word *query_pairs = take(&memory, some_all, sizeof(T)), *outward_pairs = take(&memory, some_all, sizeof(T));
        float *of_query = take(&memory, some_all, 4), *back = take(&memory, all, 4);
        float *scores = take(&memory, 32 * QUERIES, 4), *of_scores = take(&memory, 32 * QUERIES, 4);
        T *shares = take(&memory, is.many * KEYS, sizeof(T)), *of_shares = take(&memory, is.many * KEYS, sizeof(T));
        Word *pairs = take(&memory, is.many * KEYS, sizeof(T));
        float *log = take(&memory, is.many, 4), *along = take(&memory, is.many, 4);
        begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < documents * kept; job++) {
            int64_t document = documents - 1 - job / kept, head = job % kept, at = starts[document];
            int64_t length = starts[document + 1] - at, size = padded(length);
            int64_t of_key_head = (heads + head) * is.apart, of_value_head = (heads + kept + head) * is.apart;
            const T *row = rows + at * is.stride, *c = cos + at * width, *s = sin + at * width;
            T *of_row = of_rows + at * is.stride;
            gather(row + of_key_head, is.stride, c, s, key, 0, size, length, width, full);
            gather(row + of_value_head, is.stride, 0, 0, value, 0, size, length, width, full);
            turn_parts(key, room, turned, size, full);
            memset(of_key, 0, size * full * 4);
            memset(of_value, 0, size * full * 4);
            for (int64_t start = 0, end = QUERIES; start < size; start = end, end += QUERIES) {
                for (int64_t g = 0; g < is.group; g++) {
                    int64_t own = (head * is.group + g) * is.apart;
                    const T *seen = out + at * is.of_out + own, *of_seen = given + at * is.of_out + own;
                    gather(row + own, is.stride, c, s, query + g * all, start, QUERIES, length, width, full);
                    gather(of_seen, is.of_out, 0, 0, outward + g * all, start, QUERIES, length, width, full);
                    transpose((Word *)(query + g * all), queries + g * QUERIES * deep, QUERIES, deep);
                    transpose((Word *)(outward + g * all), outwards + g * QUERIES * deep, QUERIES, deep);
                    for (int64_t i = 0, place = start; i < QUERIES; i++, place++) {
                        soon(seen + (place + QUERIES) * is.of_out, width);
                        int64_t q = g * QUERIES + i, there = place < length;
                        along[q] = there ? inner(seen + place * is.of_out, outward + q * full, width) : 0;
                        log[q] = there ? logs[(head * is.group + g) * is.tokens + at + place] : 0;
                    }
                }
                const Word *two_queries = paired(query, query_pairs, is.many, full);
                const Word *two_outward = paired(outward, outward_pairs, is.many, full);
                for (int64_t first = 0; first < end; first += KEYS) {
                    int64_t some = some_of(end, first);
                    for (int64_t g = 0; g < is.group; g++)
                        for (int64_t j = 0, place = first; j < some; j += 32, place += 32) {
                            multiply((Word *)key + place * deep, deep, queries + g * QUERIES * deep, QUERIES, scores,
                                     QUERIES, 32, QUERIES, deep, 0);
                            multiply((Word *)value + place * deep, deep, outwards + g * QUERIES * deep, QUERIES,
                                     of_scores, QUERIES, 32, QUERIES, deep, 0);
                            if (place + 32 == end) hide(scores, place, 32, start);
                            int64_t to = j * is.many + g * QUERIES;
                            weigh_backward(scores, of_scores, 32, scaling, limit, log + g * QUERIES,
                                           along + g * QUERIES, shares + to, of_shares + to, is.many,
                                           pairs + (g * KEYS + j) / PAIR * QUERIES);
                        }
                    for (int64_t g = 0; g < is.group; g++)
                        multiply(turned + first / PAIR * full, some_of(size, first) / PAIR,
                                 pairs + g * KEYS / PAIR * QUERIES, QUERIES, of_query + g * all, QUERIES, full,
                                 QUERIES, some / PAIR, first > 0);
                    multiply((Word *)of_shares, is.many / PAIR, two_queries, full, of_key + first * full, full, some,
                             full, is.many / PAIR, 1);
                    multiply((Word *)shares, is.many / PAIR, two_outward, full, of_value + first * full, full, some,
                             full, is.many / PAIR, 1);
                }
                for (int64_t g = 0; g < is.group; g++) {
                    transpose((Word *)(of_query + g * all), (Word *)back, full, QUERIES);
                    for (int64_t i = 0, place = start; i < QUERIES && place < length; i++, place++)
                        turn_back(back + i * full, c + place * width, s + place * width,
                                  of_row + place * is.stride + (head * is.group + g) * is.apart, width);
                }
            }
            for (int64_t place = 0; place < length; place++) {
                T *to = of_row + place * is.stride;
                turn_back(of_key + place * full, c + place * width, s + place * width, to + of_key_head, width);
#pragma omp simd
                for (int64_t w = 0; w < width; w++) to[of_value_head + w] = narrow(of_value[place * full + w]);
            }
        }
        end(tiles);
        leave(&memory);
    }
}
