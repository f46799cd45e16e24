/* Causal attention of documents that stand one after another in a row, with rotary positions, forward and backward. A
   job is a document and one of its key heads, the last document, often the longest, first; what it needs stays in the
   processor's cache. Products take A row after row and B with PAIR rows interleaved, as the processor's instructions want
   them: a Word is so many numbers along the inner dimension, two bf16 or one float. Sums are fp32. No job depends on
   another nor on the number of threads. */

#include "native.h"

#ifdef AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef __AVX512F__
#define ROWS 8
#else
#define ROWS 4
#endif
#define LOG2_E 1.44269504f
#ifdef BF16
#define PAIR 2
#else
#define PAIR 1
#endif

#ifdef AMX

/* Whether the system lets this process use its tiles. */
int able(void) { return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */); }

/* C (m x n), or what is added to it, is A (m x k words) B (k words x n); m, n and k are multiples of 16. */
static void multiply(const Word *a, int64_t of_a, const Word *b, int64_t of_b, float *c, int64_t of_c, int64_t m,
                     int64_t n, int64_t k, int add) {
    __asm__ volatile("" ::: "memory"); /* GCC's tile loads don't say that they read */
    for (int64_t i = 0; i < m; i += 32)
        for (int64_t j = 0; j < n; j += 32) {
            int below = i + 16 < m, beside = j + 16 < n;
            float *at = c + i * of_c + j, *under = at + 16 * of_c;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            if (add) {
                _tile_loadd(0, at, 4 * of_c);
                if (beside) _tile_loadd(1, at + 16, 4 * of_c);
                if (below) _tile_loadd(2, under, 4 * of_c);
                if (below && beside) _tile_loadd(3, under + 16, 4 * of_c);
            }
            for (int64_t p = 0; p < k; p += 16) {
                _tile_loadd(4, a + i * of_a + p, 4 * of_a);
                _tile_loadd(6, b + p * of_b + j, 4 * of_b);
                _tile_dpbf16ps(0, 4, 6);
                if (beside) {
                    _tile_loadd(7, b + p * of_b + j + 16, 4 * of_b);
                    _tile_dpbf16ps(1, 4, 7);
                }
                if (below) {
                    _tile_loadd(5, a + (i + 16) * of_a + p, 4 * of_a);
                    _tile_dpbf16ps(2, 5, 6);
                    if (beside) _tile_dpbf16ps(3, 5, 7);
                }
            }
            _tile_stored(0, at, 4 * of_c);
            if (beside) _tile_stored(1, at + 16, 4 * of_c);
            if (below) _tile_stored(2, under, 4 * of_c);
            if (below && beside) _tile_stored(3, under + 16, 4 * of_c);
        }
}

#else

int able(void) { return 1; }

static inline Floats plus(Floats sum, Words a, Words b) {
#ifndef BF16
    return sum + (Floats)a * (Floats)b;
#elif defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum += (Floats)(a << 16) * (Floats)(b << 16);
    return sum + (Floats)(a & 0xffff0000) * (Floats)(b & 0xffff0000);
#endif
}

/* C (m x n), or what is added to it, is A (m x k words) B (k words x n); m, n and k are multiples of 16. */
static void multiply(const Word *a, int64_t of_a, const Word *b, int64_t of_b, float *c, int64_t of_c, int64_t m,
                     int64_t n, int64_t k, int add) {
    for (int64_t i = 0; i < m; i += ROWS)
        for (int64_t j = 0; j < n; j += 16) {
            Floats sum[ROWS][16 / LANES];
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < 16 / LANES; v++)
                    sum[r][v] = add ? *(Floats *)(c + (i + r) * of_c + j + v * LANES) : (Floats){0};
            for (int64_t p = 0; p < k; p++)
                for (int r = 0; r < ROWS; r++) {
                    Words same = a[(i + r) * of_a + p] + (Words){0};
                    for (int v = 0; v < 16 / LANES; v++)
                        sum[r][v] = plus(sum[r][v], same, *(const Words *)(b + p * of_b + j + v * LANES));
                }
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < 16 / LANES; v++) *(Floats *)(c + (i + r) * of_c + j + v * LANES) = sum[r][v];
        }
}

#endif

/* B from rows x columns: PAIR rows interleaved, in `room` or, where one is a word, in place. */
static const Word *paired(const T *from, Word *room, int64_t rows, int64_t columns) {
    if (PAIR == 1) return (const Word *)from;
    for (int64_t i = 0; i < rows / PAIR; i++) {
        const T *even = from + i * PAIR * columns, *odd = even + columns;
        Word *to = room + i * columns;
#pragma omp simd
        for (int64_t j = 0; j < columns; j++) to[j] = (Word)even[j] | (Word)odd[j] << 16;
    }
    return room;
}

/* e^((score - highest) scaling) of the first `seen` scores, narrowed, and 0 up to `edge`, a multiple of 32; `sum` is theirs
   before. Returns the highest. The scores are overwritten. */
static float soften(float *score, int64_t seen, int64_t edge, float scaling, float limit, T *to, float *sum) {
    int64_t whole = padded(seen); /* so that no loop has a rest */
    float highest = -INFINITY, total = 0;
    for (int64_t j = seen; j < whole; j++) score[j] = -INFINITY;
#pragma omp simd reduction(max : highest)
    for (int64_t j = 0; j < whole; j++) highest = score[j] > highest ? score[j] : highest;
#ifdef VECTORS
    __m512 by = _mm512_set1_ps(scaling * LOG2_E), less = _mm512_set1_ps(highest * scaling * LOG2_E);
    __m512 totals = _mm512_setzero_ps();
    for (int64_t j = 0; j < whole; j += 32) {
        __m512 low = powers(_mm512_fmsub_ps(_mm512_loadu_ps(score + j), by, less));
        __m512 high = powers(_mm512_fmsub_ps(_mm512_loadu_ps(score + j + 16), by, less));
        totals = _mm512_add_ps(totals, _mm512_add_ps(low, high));
        _mm512_storeu_si512(to + j, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    total = _mm512_reduce_add_ps(totals);
    (void)limit;
#else
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < whole; j++) total += score[j] = exponential((score[j] - highest) * scaling, limit);
    narrow_all(score, to, whole);
#endif
    memset(to + seen, 0, (edge - seen) * sizeof(T));
    *sum = total;
    return highest;
}

/* The first `seen` shares p = e^(score scaling - log), narrowed, and the gradient of their scores, p (g - sum(p g)) scaling,
   from g, that of the shares; 0 up to `edge`. Scores and g are overwritten. */
static void soften_backward(float *score, float *g, int64_t seen, int64_t edge, float scaling, float log, float limit,
                            T *shares, T *of_shares) {
    int64_t whole = padded(seen);
    float along = 0;
    for (int64_t j = seen; j < whole; j++) score[j] = -INFINITY, g[j] = 0;
#ifdef VECTORS
    __m512 by = _mm512_set1_ps(scaling * LOG2_E), less = _mm512_set1_ps(log * LOG2_E), sums[2] = {0};
    for (int64_t j = 0; j < whole; j += 32) {
        __m512 p[2];
        for (int half = 0; half < 2; half++) {
            p[half] = powers(_mm512_fmsub_ps(_mm512_loadu_ps(score + j + half * 16), by, less));
            sums[half] = _mm512_fmadd_ps(p[half], _mm512_loadu_ps(g + j + half * 16), sums[half]);
            _mm512_storeu_ps(score + j + half * 16, p[half]);
        }
        _mm512_storeu_si512(shares + j, (__m512i)_mm512_cvtne2ps_pbh(p[1], p[0]));
    }
    along = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
    by = _mm512_set1_ps(scaling), less = _mm512_set1_ps(along * scaling);
    for (int64_t j = 0; j < whole; j += 32) {
        __m512 of[2];
        for (int half = 0; half < 2; half++)
            of[half] = _mm512_mul_ps(_mm512_loadu_ps(score + j + half * 16),
                                     _mm512_fmsub_ps(_mm512_loadu_ps(g + j + half * 16), by, less));
        _mm512_storeu_si512(of_shares + j, (__m512i)_mm512_cvtne2ps_pbh(of[1], of[0]));
    }
    (void)limit;
#else
#pragma omp simd reduction(+ : along)
    for (int64_t j = 0; j < whole; j++) {
        float share = exponential(score[j] * scaling - log, limit);
        score[j] = share;
        along += share * g[j];
    }
    memset(score + seen, 0, (whole - seen) * 4); /* in the end were denormals, which are slow */
    narrow_all(score, shares, whole);
#pragma omp simd
    for (int64_t j = 0; j < whole; j++) g[j] = score[j] * (g[j] - along) * scaling;
    narrow_all(g, of_shares, whole);
#endif
    memset(shares + whole, 0, (edge - whole) * sizeof(T));
    memset(of_shares + whole, 0, (edge - whole) * sizeof(T));
}

/* Queries of a block: so many positions, of all heads that share a key. */
static inline int64_t positions(int64_t group) { return group > 1 ? 32 : 64; }

/* `size` tokens of a head of a document from place `start`, each `full` numbers of which `width` are its own, turned if
   `cos`; the others, and what is past the document's end, are 0. */
static void gather(const T *rows, int64_t stride, const T *cos, const T *sin, T *to, int64_t start, int64_t size,
                   int64_t length, int64_t width, int64_t full) {
    for (int64_t place = start; place < start + size; place++, to += full) {
        int64_t own = place < length ? width : 0;
        for (int64_t i = 0; i < width; i += 64 / (int64_t)sizeof(T)) __builtin_prefetch(rows + (place + 8) * stride + i);
        if (own && cos)
            turn(rows + place * stride, cos + place * width, sin + place * width, 1.0f, to, width);
        else
            memcpy(to, rows + place * stride, own * sizeof(T));
        memset(to + own, 0, (full - own) * sizeof(T));
    }
}

/* tokens x heads x width from tokens x (heads + 2 kept) width before their positions. `starts` are the documents' first
   tokens and the end. `logs` (heads x tokens), if any, are for the gradient: the logarithms of the softmax's sums. The
   turned keys and the values go to row `places[document]` of the cache, if there is one. */
void attend(const T *rows, const T *cos, const T *sin, T *out, float *logs, const int64_t *starts, T *keys, T *values,
            const int64_t *places, int64_t capacity, float scaling, int64_t documents, int64_t longest, int64_t heads,
            int64_t kept, int64_t width) {
    int64_t group = heads / kept, step = positions(group), many = group * step, most = padded(longest);
    int64_t full = padded(width), stride = (heads + 2 * kept) * width, tokens = starts[documents];
    fresh(out, tokens * heads * width * (int64_t)sizeof(T));
    float limit = bound();
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *raw = take(&memory, most * full, sizeof(T));
        Word *key = take(&memory, most * full, sizeof(T)), *room = take(&memory, most * full, sizeof(T));
        T *value = take(&memory, most * full, sizeof(T)), *query = take(&memory, many * full, sizeof(T));
        float *scores = take(&memory, many * most, 4), *sums = take(&memory, many * full, 4);
        float *share = take(&memory, many, 4);
        T *weights = take(&memory, many * most, sizeof(T));
        begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < documents * kept; job++) {
            int64_t document = documents - 1 - job / kept, head = job % kept, at = starts[document];
            int64_t length = starts[document + 1] - at, size = padded(length);
            const T *row = rows + at * stride, *c = cos + at * width, *s = sin + at * width;
            const T *keys_of = row + (heads + head) * width, *values_of = keys_of + kept * width;
            gather(keys_of, stride, c, s, raw, 0, size, length, width, full);
            gather(values_of, stride, 0, 0, value, 0, size, length, width, full);
            if (capacity) {
                int64_t to = (places[document] * kept + head) * capacity * width;
                for (int64_t i = 0; i < size; i++, to += width) { /* with the zeros that step() reads */
                    memcpy(keys + to, raw + i * full, width * sizeof(T));
                    memcpy(values + to, value + i * full, width * sizeof(T));
                }
            }
            transpose((Word *)raw, key, size, full / PAIR);
            const Word *seen_values = paired(value, room, size, full);
            for (int64_t start = 0; start < length; start += step) {
                int64_t edge = padded(start + step < length ? start + step : length);
                for (int64_t g = 0; g < group; g++)
                    gather(row + (head * group + g) * width, stride, c, s, query + g * step * full, start, step, length,
                           width, full);
                multiply((Word *)query, full / PAIR, key, size, scores, edge, many, edge, full / PAIR, 0);
                for (int64_t r = 0; r < many; r++) {
                    int64_t seen = start + r % step + 1;
                    if (seen > length) {
                        memset(weights + r * edge, 0, edge * sizeof(T));
                        continue;
                    }
                    float sum, highest = soften(scores + r * edge, seen, edge, scaling, limit, weights + r * edge, &sum);
                    share[r] = 1.0f / sum;
                    if (logs) logs[(head * group + r / step) * tokens + at + seen - 1] = highest * scaling + logf(sum);
                }
                multiply((Word *)weights, edge / PAIR, seen_values, full, sums, full, many, full, edge / PAIR, 0);
                for (int64_t r = 0; r < many; r++) {
                    int64_t place = start + r % step;
                    if (place >= length) continue;
                    T *to = out + ((at + place) * heads + head * group + r / step) * width;
#pragma omp simd
                    for (int64_t i = 0; i < width; i++) to[i] = narrow(sums[r * full + i] * share[r]);
                }
            }
        }
        end(tiles);
        leave(&memory);
    }
}

/* The gradient of `rows` from that of `out`. */
void attend_backward(const T *rows, const T *cos, const T *sin, const T *given, const float *logs, T *of_rows,
                     const int64_t *starts, float scaling, int64_t documents, int64_t longest, int64_t heads,
                     int64_t kept, int64_t width) {
    int64_t group = heads / kept, step = positions(group), many = group * step, most = padded(longest);
    int64_t full = padded(width), stride = (heads + 2 * kept) * width, tokens = starts[documents];
    float limit = bound();
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *raw = take(&memory, most * full, sizeof(T)), *raw_values = take(&memory, most * full, sizeof(T));
        Word *key = take(&memory, most * full, sizeof(T)), *value = take(&memory, most * full, sizeof(T));
        Word *room = take(&memory, most * full, sizeof(T));
        float *of_key = take(&memory, most * full, 4), *of_value = take(&memory, most * full, 4);
        float *back = take(&memory, most * full, 4);
        T *query = take(&memory, many * full, sizeof(T)), *outward = take(&memory, many * full, sizeof(T));
        Word *queries = take(&memory, many * full, sizeof(T)), *outwards = take(&memory, many * full, sizeof(T));
        Word *between = take(&memory, many * full, sizeof(T));
        float *of_query = take(&memory, many * full, 4);
        float *scores = take(&memory, many * most, 4), *of_scores = take(&memory, many * most, 4);
        T *shares = take(&memory, many * most, sizeof(T)), *of_shares = take(&memory, many * most, sizeof(T));
        Word *pairs = take(&memory, many * most, sizeof(T)), *of_pairs = take(&memory, many * most, sizeof(T));
        T *line = take(&memory, width, sizeof(T));
        begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < documents * kept; job++) {
            int64_t document = documents - 1 - job / kept, head = job % kept, at = starts[document];
            int64_t length = starts[document + 1] - at, size = padded(length);
            const T *row = rows + at * stride, *c = cos + at * width, *s = sin + at * width;
            int64_t own = (heads + head) * width, apart = kept * width;
            gather(row + own, stride, c, s, raw, 0, size, length, width, full);
            gather(row + own + apart, stride, 0, 0, raw_values, 0, size, length, width, full);
            transpose((Word *)raw, key, size, full / PAIR);
            transpose((Word *)raw_values, value, size, full / PAIR);
            const Word *seen_keys = paired(raw, room, size, full);
            memset(of_key, 0, size * full * 4);
            memset(of_value, 0, size * full * 4);
            for (int64_t start = 0; start < length; start += step) {
                int64_t edge = padded(start + step < length ? start + step : length);
                for (int64_t g = 0; g < group; g++) {
                    int64_t column = (head * group + g) * width;
                    gather(row + column, stride, c, s, query + g * step * full, start, step, length, width, full);
                    gather(given + at * heads * width + column, heads * width, 0, 0, outward + g * step * full, start,
                           step, length, width, full);
                }
                multiply((Word *)query, full / PAIR, key, size, scores, edge, many, edge, full / PAIR, 0);
                multiply((Word *)outward, full / PAIR, value, size, of_scores, edge, many, edge, full / PAIR, 0);
                for (int64_t r = 0; r < many; r++) {
                    int64_t seen = start + r % step + 1;
                    float log = seen > length ? 0 : logs[(head * group + r / step) * tokens + at + seen - 1];
                    soften_backward(scores + r * edge, of_scores + r * edge, seen > length ? 0 : seen, edge, scaling, log,
                                    limit, shares + r * edge, of_shares + r * edge);
                }
                multiply((Word *)of_shares, edge / PAIR, seen_keys, full, of_query, full, many, full, edge / PAIR, 0);
                transpose(paired(query, between, many, full), queries, many / PAIR, full);
                transpose(paired(outward, between, many, full), outwards, many / PAIR, full);
                multiply(queries, many / PAIR, paired(of_shares, of_pairs, many, edge), edge, of_key, size, full,
                         edge, many / PAIR, 1);
                multiply(outwards, many / PAIR, paired(shares, pairs, many, edge), edge, of_value, size, full,
                         edge, many / PAIR, 1);
                for (int64_t r = 0; r < many; r++) {
                    int64_t place = start + r % step;
                    if (place >= length) continue;
                    for (int64_t i = 0; i < width; i++) line[i] = narrow(of_query[r * full + i]);
                    turn(line, c + place * width, s + place * width, -1.0f,
                         of_rows + (at + place) * stride + (head * group + r / step) * width, width);
                }
            }
            for (int values = 0; values < 2; values++) {
                transpose((Word *)(values ? of_value : of_key), (Word *)back, full, size);
                for (int64_t place = 0; place < length; place++) {
                    T *to = of_rows + (at + place) * stride + own + values * apart;
                    for (int64_t i = 0; i < width; i++) (values ? to : line)[i] = narrow(back[place * full + i]);
                    if (!values) turn(line, c + place * width, s + place * width, -1.0f, to, width);
                }
            }
        }
        end(tiles);
        leave(&memory);
    }
}

/* One new token for each of `count` rows of the cache: its key and value go to place `at`, and it sees its row so far.
   What a row has from there to the next multiple of 32 is 0, and `capacity` is such a multiple. */
void step(const T *rows, const T *cos, const T *sin, T *keys, T *values, const int64_t *at, T *out, float scaling,
          int64_t count, int64_t heads, int64_t kept, int64_t width, int64_t capacity) {
    int64_t group = heads / kept, columns = (group + 15) / 16 * 16, full = padded(width);
    float limit = bound();
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *query = take(&memory, columns * full, sizeof(T)), *copy = take(&memory, 2 * capacity * full, sizeof(T));
        Word *queries = take(&memory, columns * full, sizeof(T)), *room = take(&memory, capacity * full, sizeof(T));
        float *scores = take(&memory, capacity * columns, 4), *sums = take(&memory, columns * full, 4);
        float *row = take(&memory, capacity, 4), *share = take(&memory, group, 4);
        T *weights = take(&memory, columns * capacity, sizeof(T));
        memset(query, 0, columns * full * sizeof(T));
        begin(tiles);
#pragma omp for schedule(static)
        for (int64_t job = 0; job < count * kept; job++) {
            int64_t place = job / kept, head = job % kept, last = at[place], size = padded(last + 1);
            const T *own = rows + place * (heads + 2 * kept) * width, *c = cos + place * width, *s = sin + place * width;
            T *key = keys + job * capacity * width, *value = values + job * capacity * width;
            if (last % 32 == 0) {
                memset(key + last * width, 0, 32 * width * sizeof(T));
                memset(value + last * width, 0, 32 * width * sizeof(T));
            }
            turn(own + (heads + head) * width, c, s, 1.0f, key + last * width, width);
            memcpy(value + last * width, own + (heads + kept + head) * width, width * sizeof(T));
            for (int64_t g = 0; g < group; g++)
                turn(own + (head * group + g) * width, c, s, 1.0f, query + g * full, width);
            transpose((Word *)query, queries, columns, full / PAIR);
            const T *seen_keys = key, *seen_values = value;
            if (full > width) {
                gather(key, width, 0, 0, copy, 0, size, size, width, full);
                gather(value, width, 0, 0, copy + capacity * full, 0, size, size, width, full);
                seen_keys = copy, seen_values = copy + capacity * full;
            }
            multiply((Word *)seen_keys, full / PAIR, queries, columns, scores, columns, size, columns, full / PAIR, 0);
            for (int64_t g = 0; g < columns; g++) {
                if (g >= group) {
                    memset(weights + g * size, 0, size * sizeof(T));
                    continue;
                }
                float sum;
                for (int64_t j = 0; j < size; j++) row[j] = scores[j * columns + g];
                soften(row, last + 1, size, scaling, limit, weights + g * size, &sum);
                share[g] = 1.0f / sum;
            }
            const Word *pairs = paired(seen_values, room, size, full);
            multiply((Word *)weights, size / PAIR, pairs, full, sums, full, columns, full, size / PAIR, 0);
            for (int64_t g = 0; g < group; g++)
                for (int64_t i = 0; i < width; i++)
                    out[(job * group + g) * width + i] = narrow(sums[g * full + i] * share[g]);
        }
        end(tiles);
        leave(&memory);
    }
}

/* rows x outputs, or what is added to it, from rows x inputs, by weights in panels: for each 32 outputs inputs / PAIR words
   of each of them, side by side, so that a few rows read them from memory as fast as it gives them. */
void product(const T *x, const T *weight, T *out, int64_t rows, int64_t inputs, int64_t outputs, int64_t add) {
    int64_t many = (rows + 15) / 16 * 16;
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *own = take(&memory, many * inputs, sizeof(T));
        float *sums = take(&memory, many * 32, 4);
        if (many > rows) {
            memcpy(own, x, rows * inputs * sizeof(T));
            memset(own + rows * inputs, 0, (many - rows) * inputs * sizeof(T));
        }
        begin(tiles);
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < outputs / 32; panel++) {
            multiply((Word *)(many > rows ? own : x), inputs / PAIR, (Word *)(weight + panel * inputs * 32), 32, sums, 32,
                     many, 32, inputs / PAIR, 0);
            for (int64_t r = 0; r < rows; r++) {
                T *to = out + r * outputs + panel * 32;
                if (add)
                    for (int64_t i = 0; i < 32; i++) sums[r * 32 + i] += load(to[i]);
                narrow_all(sums + r * 32, to, 32);
            }
        }
        end(tiles);
        leave(&memory);
    }
}
