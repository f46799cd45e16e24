/* What a step of decoding computes: attention of one new token for each row of a cache, products of a few rows, and all
   decoder layers at once. No row depends on another nor on the number of threads. */

#include "products.h"

#ifdef AMX
#include <sys/syscall.h>
#include <unistd.h>

/* Whether the system lets this process use its tiles. */
int able(void) { return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */); }
#else
int able(void) { return 1; }
#endif

/* x / sqrt(mean(x^2) + eps) * weight of rows, each `stride` after the one before; rounded as `norm_forward` does it. */
static void norm_rows_to(const T *x, const T *weight, T *to, int64_t stride, float eps, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++, x += width, to += stride) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; i++) sum += load(x[i]) * load(x[i]);
        float scale = 1.0f / sqrtf(sum / (float)width + eps);
#pragma omp simd
        for (int64_t i = 0; i < width; i++) to[i] = narrow(load(narrow(load(x[i]) * scale)) * load(weight[i]));
    }
}

/* e^((score - highest) scaling) of the first `seen` scores, narrowed, and 0 up to `edge`, a multiple of 32; `sum` is
   theirs before. Returns the highest. The scores are overwritten. */
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

/* What a thread needs for the heads of a layer: `group` heads share keys and values, `capacity` is a multiple of 32. */
typedef struct {
    int64_t group, columns, full, width, capacity;
    float limit;
    float *scores, *sums, *row, *share;
    T *query, *copy, *weights;
    Word *queries, *room;
} Heads;

static Heads heads_of(Memory *memory, int64_t group, int64_t width, int64_t capacity) {
    int64_t columns = (group + 15) / 16 * 16, full = padded(width);
    Heads own = {group, columns, full, width, capacity, bound()};
    own.query = take(memory, columns * full, sizeof(T));
    own.copy = take(memory, 2 * capacity * full, sizeof(T));
    own.queries = take(memory, columns * full, sizeof(T));
    own.room = take(memory, capacity * full, sizeof(T));
    own.scores = take(memory, capacity * columns, 4);
    own.sums = take(memory, columns * full, 4);
    own.row = take(memory, capacity, 4);
    own.share = take(memory, group, 4);
    own.weights = take(memory, columns * capacity, sizeof(T));
    memset(own.query, 0, columns * full * sizeof(T));
    return own;
}

/* What the heads of a new token see that share `key` and `value`, a row of the cache: its own, `new_key` and
   `new_value`, go to place `last` there. What the row has from there to the next multiple of 32 is 0. */
static void look(const Heads *own, const T *queries, const T *new_key, const T *new_value, const T *cos, const T *sin,
                 T *key, T *value, int64_t last, T *out, float scaling) {
    int64_t group = own->group, columns = own->columns, full = own->full, width = own->width, size = padded(last + 1);
    if (last % 32 == 0) {
        memset(key + last * width, 0, 32 * width * sizeof(T));
        memset(value + last * width, 0, 32 * width * sizeof(T));
    }
    turn(new_key, cos, sin, key + last * width, width);
    memcpy(value + last * width, new_value, width * sizeof(T));
    for (int64_t g = 0; g < group; g++) turn(queries + g * width, cos, sin, own->query + g * full, width);
    transpose((Word *)own->query, own->queries, columns, full / PAIR);
    const T *seen_keys = key, *seen_values = value;
    if (full > width) {
        gather(key, width, 0, 0, own->copy, 0, size, size, width, full);
        gather(value, width, 0, 0, own->copy + own->capacity * full, 0, size, size, width, full);
        seen_keys = own->copy, seen_values = own->copy + own->capacity * full;
    }
    multiply((Word *)seen_keys, full / PAIR, own->queries, columns, own->scores, columns, size, columns, full / PAIR,
             0);
    for (int64_t g = 0; g < columns; g++) {
        if (g >= group) {
            memset(own->weights + g * size, 0, size * sizeof(T));
            continue;
        }
        float sum;
        for (int64_t j = 0; j < size; j++) own->row[j] = own->scores[j * columns + g];
        soften(own->row, last + 1, size, scaling, own->limit, own->weights + g * size, &sum);
        own->share[g] = 1.0f / sum;
    }
    const Word *pairs = paired(seen_values, own->room, size, full);
    multiply((Word *)own->weights, size / PAIR, pairs, full, own->sums, full, columns, full, size / PAIR, 0);
    for (int64_t g = 0; g < group; g++)
        for (int64_t i = 0; i < width; i++) out[g * width + i] = narrow(own->sums[g * full + i] * own->share[g]);
}

/* One new token for each of `count` rows of the cache: its key and value go to place `at`, and it sees its row. */
void step(const T *rows, const T *cos, const T *sin, T *keys, T *values, const int64_t *at, T *out, float scaling,
          int64_t count, int64_t heads, int64_t kept, int64_t width, int64_t capacity) {
    int64_t group = heads / kept;
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        Heads own = heads_of(&memory, group, width, capacity);
        begin(tiles);
#pragma omp for schedule(static)
        for (int64_t job = 0; job < count * kept; job++) {
            int64_t place = job / kept, head = job % kept;
            const T *row = rows + place * (heads + 2 * kept) * width, *key = row + (heads + head) * width;
            look(&own, row + head * group * width, key, key + kept * width, cos + place * width, sin + place * width,
                 keys + job * capacity * width, values + job * capacity * width, at[place], out + job * group * width,
                 scaling);
        }
        end(tiles);
        leave(&memory);
    }
}

/* rows x 32 from rows of `inputs` numbers, each `stride` after the one before, a multiple of 16, by a panel of weights:
   `inputs` / PAIR words of each of 32 outputs, side by side, so that a few rows read them as fast as memory gives
   them. */
static void by_panel(const T *rows, int64_t stride, const T *panel, float *sums, int64_t many, int64_t inputs) {
    multiply((Word *)rows, stride / PAIR, (Word *)panel, 32, sums, 32, many, 32, inputs / PAIR, 0);
}

/* rows x outputs, or what is added to it, from rows x inputs, by weights in panels */
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
            by_panel(many > rows ? own : x, inputs, weight + panel * inputs * 32, sums, many, inputs);
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

/* A decoder layer of Llama's kind: weights in panels, those of queries, keys and values with `ranks` inputs more, which
   `thin` makes of the others; gate and up one after the other. */
typedef struct {
    const T *norm, *enter, *thin, *leave, *after, *unit, *down;
    int64_t ranks, heads, kept, inner;
} Layer;

typedef struct {
    float eps, eps_after, scaling;
} Facts;

/* `count` rows of 32 numbers, rounded, each `stride` after the one before; where `add`, they are added to it. */
static void put_rows(const float *sums, T *to, int64_t stride, int64_t count, int add) {
    for (int64_t r = 0; r < count; r++, sums += 32, to += stride)
        for (int64_t i = 0; i < 32; i++) to[i] = add ? narrow(load(to[i]) + load(narrow(sums[i]))) : narrow(sums[i]);
}

/* What `layers` decoder layers make of `x`, one new token (`width` numbers) for each of `count` rows of the cache, in
   place: `step` and `product` of all of them, in one call, because a call takes as long as a layer's smaller products.
   `cache` are each layer's keys and values, `part` is the width of a head. */
void steps(const Layer *layer, const Facts *facts, T **cache, T *x, const T *cos, const T *sin, const int64_t *at,
           int64_t layers, int64_t count, int64_t width, int64_t part, int64_t capacity) {
    int64_t many = (count + 15) / 16 * 16, ranks = 0, inner = 0, outputs = 0, group = 0;
    for (int64_t l = 0; l < layers; l++) {
        int64_t all = (layer[l].heads + 2 * layer[l].kept) * part;
        ranks = layer[l].ranks > ranks ? layer[l].ranks : ranks;
        inner = layer[l].inner > inner ? layer[l].inner : inner;
        outputs = all > outputs ? all : outputs;
        group = layer[l].heads / layer[l].kept > group ? layer[l].heads / layer[l].kept : group;
    }
    Memory shared = {.count = 0};
    T *rows = take(&shared, count * outputs, sizeof(T)), *seen = take(&shared, many * outputs, sizeof(T));
    T *unit = take(&shared, many * inner, sizeof(T));
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        Heads own = heads_of(&memory, group, part, capacity);
        T *normed = take(&memory, many * (width + ranks), sizeof(T));
        float *sums = take(&memory, many * 32, 4), *beside = take(&memory, many * 32, 4);
        begin(tiles);
        for (int64_t l = 0; l < layers; l++) {
            const Layer one = layer[l];
            int64_t long_row = width + one.ranks, all = (one.heads + 2 * one.kept) * part, wide = one.heads * part;
            own.group = one.heads / one.kept;
            own.columns = (own.group + 15) / 16 * 16;
            /* Each thread makes these few numbers for itself: to wait for each other would take longer. */
            norm_rows_to(x, one.norm, normed, long_row, facts[l].eps, count, width);
            for (int64_t j = 0; j < one.ranks; j += 32) {
                by_panel(normed, long_row, one.thin + j * width, sums, many, width);
                put_rows(sums, normed + width + j, long_row, count, 0);
            }
#pragma omp for schedule(static)
            for (int64_t j = 0; j < all; j += 32) {
                by_panel(normed, long_row, one.enter + j * long_row, sums, many, long_row);
                put_rows(sums, rows + j, all, count, 0);
            }
#pragma omp for schedule(static)
            for (int64_t job = 0; job < count * one.kept; job++) {
                int64_t place = job / one.kept, head = job % one.kept, start = job * capacity * part;
                const T *row = rows + place * all, *key = row + (one.heads + head) * part;
                look(&own, row + head * own.group * part, key, key + one.kept * part, cos + place * part,
                     sin + place * part, cache[2 * l] + start, cache[2 * l + 1] + start, at[place],
                     seen + job * own.group * part, facts[l].scaling);
            }
#pragma omp for schedule(static)
            for (int64_t j = 0; j < width; j += 32) {
                by_panel(seen, wide, one.leave + j * wide, sums, many, wide);
                put_rows(sums, x + j, width, count, 1);
            }
            norm_rows_to(x, one.after, normed, width, facts[l].eps_after, count, width);
#pragma omp for schedule(static)
            for (int64_t j = 0; j < one.inner; j += 32) {
                by_panel(normed, width, one.unit + j * width, sums, many, width);
                by_panel(normed, width, one.unit + (one.inner + j) * width, beside, many, width);
                for (int64_t r = 0; r < count; r++)
                    for (int64_t i = 0; i < 32; i++) {
                        float gate = load(narrow(sums[r * 32 + i])), up = load(narrow(beside[r * 32 + i]));
                        unit[r * one.inner + j + i] = narrow(gate * sigmoid(gate, own.limit) * up);
                    }
            }
#pragma omp for schedule(static)
            for (int64_t j = 0; j < width; j += 32) {
                by_panel(unit, one.inner, one.down + j * one.inner, sums, many, one.inner);
                put_rows(sums, x + j, width, count, 1);
            }
        }
        end(tiles);
        leave(&memory);
    }
    leave(&shared);
}
