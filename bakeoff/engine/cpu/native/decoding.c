/* What a step of decoding computes: attention of one new token for each row of a cache, products of a few rows, and all
   decoder layers at once. No row depends on another nor on the number of threads. */

#include "products.h"

/* Whether the system lets this process use the processor's tiles, if the kernels do. */
int able(void) { return tiles_allowed(); }

/* x / sqrt(mean(x^2) + eps) * weight of rows, each `stride` after the one before; rounded as
   `rms_norm_forward` does it. */
static void rms_norm_rows(const T *x, const T *weight, T *to, int64_t stride, float eps, int64_t rows,
                          int64_t d_model) {
    for (int64_t r = 0; r < rows; r++, x += d_model, to += stride) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < d_model; i++) sum += load(x[i]) * load(x[i]);
        float scale = 1.0f / sqrtf(sum / (float)d_model + eps);
#pragma omp simd
        for (int64_t i = 0; i < d_model; i++) to[i] = narrow(load(narrow(load(x[i]) * scale)) * load(weight[i]));
    }
}

/* e^((score - highest) scaling) of the first `seen` scores, narrowed, and 0 up to `edge`, a multiple of 32. Returns
   their sum before they are narrowed. The scores are overwritten. */
static float softmax_scores(float *score, int64_t seen, int64_t edge, float scaling, float limit, T *to) {
    int64_t whole = padded(seen); /* so that no loop has a rest */
    float highest = -INFINITY;
    for (int64_t j = seen; j < whole; j++) score[j] = -INFINITY;
#pragma omp simd reduction(max : highest)
    for (int64_t j = 0; j < whole; j++) highest = score[j] > highest ? score[j] : highest;
    float sum = softmax_row(score, whole, highest, scaling, limit, to);
    memset(to + seen, 0, (edge - seen) * sizeof(T));
    return sum;
}

/* What a thread needs for the heads of a layer: `group` heads share keys and values, `capacity` is a multiple of 32. */
typedef struct {
    int64_t group, columns, full, head_dim, capacity;
    float limit;
    float *scores, *sums, *row, *inverse_sum;
    T *query, *copy, *weights;
    Word *queries, *room;
} Heads;

static Heads heads_of(Memory *memory, int64_t group, int64_t head_dim, int64_t capacity) {
    int64_t columns = (group + 15) / 16 * 16, full = padded(head_dim);
    Heads own = {
        .group = group, .columns = columns, .full = full, .head_dim = head_dim, .capacity = capacity, .limit = bound()};
    own.query = allocate(memory, columns * full, sizeof(T));
    own.copy = allocate(memory, 2 * capacity * full, sizeof(T));
    own.queries = allocate(memory, columns * full, sizeof(T));
    own.room = allocate(memory, capacity * full, sizeof(T));
    own.scores = allocate(memory, capacity * columns, 4);
    own.sums = allocate(memory, columns * full, 4);
    own.row = allocate(memory, capacity, 4);
    own.inverse_sum = allocate(memory, group, 4);
    own.weights = allocate(memory, columns * capacity, sizeof(T));
    memset(own.query, 0, columns * full * sizeof(T));
    return own;
}

/* out (group x head_dim) of a new token's queries (group x head_dim) that share key and value (capacity x head_dim),
   a row of the cache. The token's own new_key and new_value (head_dim each) are its token number `last`. What the
   row has from there to the next multiple of 32 is 0. */
static void attend_to_cache(const Heads *own, const T *queries, const T *new_key, const T *new_value, const T *cos,
                            const T *sin, T *key, T *value, int64_t last, T *out, float scaling) {
    int64_t group = own->group, columns = own->columns, full = own->full, head_dim = own->head_dim,
            size = padded(last + 1);
    if (last % 32 == 0) {
        memset(key + last * head_dim, 0, 32 * head_dim * sizeof(T));
        memset(value + last * head_dim, 0, 32 * head_dim * sizeof(T));
    }
    rope(new_key, cos, sin, key + last * head_dim, head_dim);
    memcpy(value + last * head_dim, new_value, head_dim * sizeof(T));
    for (int64_t g = 0; g < group; g++) rope(queries + g * head_dim, cos, sin, own->query + g * full, head_dim);
    transpose((Word *)own->query, own->queries, columns, full / PAIR);
    const T *wide_keys = key, *wide_values = value;
    if (full > head_dim) {
        gather(key, head_dim, 0, 0, own->copy, 0, size, size, head_dim, full);
        gather(value, head_dim, 0, 0, own->copy + own->capacity * full, 0, size, size, head_dim, full);
        wide_keys = own->copy, wide_values = own->copy + own->capacity * full;
    }
    multiply((Word *)wide_keys, full / PAIR, own->queries, columns, own->scores, columns, size, columns, full / PAIR,
             0);
    for (int64_t g = 0; g < columns; g++) {
        if (g >= group) {
            memset(own->weights + g * size, 0, size * sizeof(T));
            continue;
        }
        for (int64_t j = 0; j < size; j++) own->row[j] = own->scores[j * columns + g];
        own->inverse_sum[g] =
            1.0f / softmax_scores(own->row, last + 1, size, scaling, own->limit, own->weights + g * size);
    }
    const Word *pairs = paired(wide_values, own->room, size, full);
    multiply((Word *)own->weights, size / PAIR, pairs, full, own->sums, full, columns, full, size / PAIR, 0);
    for (int64_t g = 0; g < group; g++)
        for (int64_t i = 0; i < head_dim; i++)
            out[g * head_dim + i] = narrow(own->sums[g * full + i] * own->inverse_sum[g]);
}

/* Attention of one new token for each of `count` rows of the cache.
   rows          count x (n_heads + 2 n_kv_heads) x head_dim: queries, keys, values before their positions
   cos, sin      count x head_dim
   keys, values  cache rows x n_kv_heads x capacity x head_dim: the new token's own are written at its position
   positions     count: the new token's index in its document
   out           count x n_heads x head_dim */
void attention_step(const T *rows, const T *cos, const T *sin, T *keys, T *values, const int64_t *positions, T *out,
                    float scaling, int64_t count, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim,
                    int64_t capacity) {
    int64_t group = n_heads / n_kv_heads;
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        Heads own = heads_of(&memory, group, head_dim, capacity);
        tiles_begin(tiles);
#pragma omp for schedule(static)
        for (int64_t job = 0; job < count * n_kv_heads; job++) {
            int64_t row_index = job / n_kv_heads, head = job % n_kv_heads;
            const T *row = rows + row_index * (n_heads + 2 * n_kv_heads) * head_dim,
                    *key = row + (n_heads + head) * head_dim;
            attend_to_cache(&own, row + head * group * head_dim, key, key + n_kv_heads * head_dim,
                            cos + row_index * head_dim, sin + row_index * head_dim, keys + job * capacity * head_dim,
                            values + job * capacity * head_dim, positions[row_index], out + job * group * head_dim,
                            scaling);
        }
        tiles_end(tiles);
        free_all(&memory);
    }
}

/* sums (many x 32) of many rows of d_in numbers, each `stride` after the one before, by the packed weights of 32
   outputs: d_in / PAIR words of each, side by side, so that a few rows read them as fast as memory gives them.
   `many` is a multiple of 16. */
static void multiply_packed(const T *rows, int64_t stride, const T *packed, float *sums, int64_t many, int64_t d_in) {
    multiply((Word *)rows, stride / PAIR, (Word *)packed, 32, sums, 32, many, 32, d_in / PAIR, 0);
}

/* out (rows x d_out), or what is added to it if `add`, from x (rows x d_in) by packed weights (d_out x d_in). */
void packed_linear(const T *x, const T *weight, T *out, int64_t rows, int64_t d_in, int64_t d_out, int64_t add) {
    int64_t many = (rows + 15) / 16 * 16;
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *own = allocate(&memory, many * d_in, sizeof(T));
        float *sums = allocate(&memory, many * 32, 4);
        if (many > rows) {
            memcpy(own, x, rows * d_in * sizeof(T));
            memset(own + rows * d_in, 0, (many - rows) * d_in * sizeof(T));
        }
        tiles_begin(tiles);
#pragma omp for schedule(static)
        for (int64_t j = 0; j < d_out; j += 32) {
            multiply_packed(many > rows ? own : x, d_in, weight + j * d_in, sums, many, d_in);
            for (int64_t r = 0; r < rows; r++) {
                T *to = out + r * d_out + j;
                if (add)
                    for (int64_t i = 0; i < 32; i++) sums[r * 32 + i] += load(to[i]);
                narrow_all(sums + r * 32, to, 32);
            }
        }
        tiles_end(tiles);
        free_all(&memory);
    }
}

/* A decoder layer of Llama's kind, a row of a table of 64-bit numbers that Python makes: weights packed, those of
   queries, keys and values (qkv) with `rank` inputs more, which lora_A makes of the others; gate and up one after the
   other. */
struct Layer {
    const T *norm, *qkv, *lora_A, *o, *norm_after, *gate_up, *down;
    int64_t rank, n_heads, n_kv_heads, d_ff;
};
_Static_assert(sizeof(Layer) == 11 * sizeof(int64_t), "a row of Python's table: 7 addresses and 4 numbers of 64 bits");
_Static_assert(offsetof(Layer, rank) == 7 * sizeof(int64_t), "the numbers follow the addresses without a gap");

/* A layer's row of a table of fp32 numbers. */
struct Scales {
    float eps, eps_after, scaling;
};
_Static_assert(sizeof(Scales) == 3 * sizeof(float), "a row of Python's table: 3 numbers of 32 bits");

/* `count` rows of 32 numbers, rounded, each `stride` after the one before; where `add`, they are added to it. */
static void store_rows(const float *sums, T *to, int64_t stride, int64_t count, int add) {
    for (int64_t r = 0; r < count; r++, sums += 32, to += stride)
        for (int64_t i = 0; i < 32; i++) to[i] = add ? narrow(load(to[i]) + load(narrow(sums[i]))) : narrow(sums[i]);
}

/* What `layers` decoder layers make of x, one new token for each of `count` rows of the cache, in place: attention_step
   and packed_linear of all of them in one call, because a call takes as long as a layer's smaller products.
   layer, scales  layers
   cache          layers x 2: each layer's keys and values, cache rows x n_kv_heads x capacity x head_dim
   x              count x d_model
   cos, sin       count x head_dim
   positions      count: the new token's index in its document */
void decoder_step(const Layer *layer, const Scales *scales, T **cache, T *x, const T *cos, const T *sin,
                  const int64_t *positions, int64_t layers, int64_t count, int64_t d_model, int64_t head_dim,
                  int64_t capacity) {
    int64_t many = (count + 15) / 16 * 16, rank = 0, d_ff = 0, d_out = 0, group = 0;
    for (int64_t l = 0; l < layers; l++) {
        int64_t all = (layer[l].n_heads + 2 * layer[l].n_kv_heads) * head_dim;
        rank = layer[l].rank > rank ? layer[l].rank : rank;
        d_ff = layer[l].d_ff > d_ff ? layer[l].d_ff : d_ff;
        d_out = all > d_out ? all : d_out;
        group = layer[l].n_heads / layer[l].n_kv_heads > group ? layer[l].n_heads / layer[l].n_kv_heads : group;
    }
    Memory shared = {.count = 0};
    T *rows = allocate(&shared, count * d_out, sizeof(T)), *attended = allocate(&shared, many * d_out, sizeof(T));
    T *unit = allocate(&shared, many * d_ff, sizeof(T));
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        Heads own = heads_of(&memory, group, head_dim, capacity);
        T *normed = allocate(&memory, many * (d_model + rank), sizeof(T));
        float *sums = allocate(&memory, many * 32, 4), *beside = allocate(&memory, many * 32, 4);
        tiles_begin(tiles);
        for (int64_t l = 0; l < layers; l++) {
            const Layer one = layer[l];
            int64_t long_row = d_model + one.rank, all = (one.n_heads + 2 * one.n_kv_heads) * head_dim,
                    wide = one.n_heads * head_dim;
            own.group = one.n_heads / one.n_kv_heads;
            own.columns = (own.group + 15) / 16 * 16;
            /* Each thread makes these few numbers for itself: to wait for each other would take longer. */
            rms_norm_rows(x, one.norm, normed, long_row, scales[l].eps, count, d_model);
            for (int64_t j = 0; j < one.rank; j += 32) {
                multiply_packed(normed, long_row, one.lora_A + j * d_model, sums, many, d_model);
                store_rows(sums, normed + d_model + j, long_row, count, 0);
            }
#pragma omp for schedule(static)
            for (int64_t j = 0; j < all; j += 32) {
                multiply_packed(normed, long_row, one.qkv + j * long_row, sums, many, long_row);
                store_rows(sums, rows + j, all, count, 0);
            }
#pragma omp for schedule(static)
            for (int64_t job = 0; job < count * one.n_kv_heads; job++) {
                int64_t row_index = job / one.n_kv_heads, head = job % one.n_kv_heads,
                        start = job * capacity * head_dim;
                const T *row = rows + row_index * all, *key = row + (one.n_heads + head) * head_dim;
                attend_to_cache(&own, row + head * own.group * head_dim, key, key + one.n_kv_heads * head_dim,
                                cos + row_index * head_dim, sin + row_index * head_dim, cache[2 * l] + start,
                                cache[2 * l + 1] + start, positions[row_index], attended + job * own.group * head_dim,
                                scales[l].scaling);
            }
#pragma omp for schedule(static)
            for (int64_t j = 0; j < d_model; j += 32) {
                multiply_packed(attended, wide, one.o + j * wide, sums, many, wide);
                store_rows(sums, x + j, d_model, count, 1);
            }
            rms_norm_rows(x, one.norm_after, normed, d_model, scales[l].eps_after, count, d_model);
#pragma omp for schedule(static)
            for (int64_t j = 0; j < one.d_ff; j += 32) {
                multiply_packed(normed, d_model, one.gate_up + j * d_model, sums, many, d_model);
                multiply_packed(normed, d_model, one.gate_up + (one.d_ff + j) * d_model, beside, many, d_model);
                for (int64_t r = 0; r < count; r++)
                    for (int64_t i = 0; i < 32; i++) {
                        float gate = load(narrow(sums[r * 32 + i])), up = load(narrow(beside[r * 32 + i]));
                        unit[r * one.d_ff + j + i] = narrow(gate * sigmoid(gate, own.limit) * up);
                    }
            }
#pragma omp for schedule(static)
            for (int64_t j = 0; j < d_model; j += 32) {
                multiply_packed(unit, one.d_ff, one.down + j * one.d_ff, sums, many, one.d_ff);
                store_rows(sums, x + j, d_model, count, 1);
            }
        }
        tiles_end(tiles);
        free_all(&memory);
    }
    free_all(&shared);
}
