/* What a step of decoding computes: attention of one new token for each row of a cache, and products of a few rows. No row
   depends on another nor on the number of threads. */

#include "products.h"

#ifdef AMX
#include <sys/syscall.h>
#include <unistd.h>

/* Whether the system lets this process use its tiles. */
int able(void) { return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */); }
#else
int able(void) { return 1; }
#endif

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
            turn(own + (heads + head) * width, c, s, key + last * width, width);
            memcpy(value + last * width, own + (heads + kept + head) * width, width * sizeof(T));
            for (int64_t g = 0; g < group; g++)
                turn(own + (head * group + g) * width, c, s, query + g * full, width);
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
