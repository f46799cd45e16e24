/* A decoder layer of Llama's kind around its attention, and the output head, in bf16: `enter` is the norm and the
   products in front of the attention, `rest` all behind it. Tokens are computed in blocks that stay in the
   processor's cache from their first norm to their last sum. No token depends on its block nor on the number of
   threads. The inner loops stand in layer_amx.h for processors with tiles, and in layer_serial.h, by which the same
   layers are tested everywhere. */

#include "products.h"

#ifdef BF16
#ifdef AMX
#include "layer_amx.h"
#else
#include "layer_serial.h"
#endif

#define CACHE 1700000 /* bytes of a thread's own cache that a block may fill: of 2 MB since Sapphire Rapids */

/* fp32 numbers from one row to the next: an odd number of cache lines, so that rows don't fight for the same ones. */
static inline int64_t pitch(int64_t width) { return (width / 16 | 1) * 16; }

/* How many rows a block has at most that take so many bytes each. */
static inline int64_t most_of(int64_t bytes) { return CACHE / bytes < 32 ? 32 : CACHE / bytes / 32 * 32; }

/* Into how many blocks tokens are cut that take so many bytes each: as many for every thread, if that can be. */
static int64_t blocks_of(int64_t tokens, int64_t bytes) {
    int64_t blocks = (tokens + most_of(bytes) - 1) / most_of(bytes), threads = omp_get_max_threads();
    return (blocks + !blocks + threads - 1) / threads * threads;
}

/* Where a block starts; sizes differ by 32 at most. */
static inline int64_t start_of(int64_t block, int64_t blocks, int64_t tokens) {
    int64_t start = padded(tokens) / 32 * block / blocks * 32;
    return start < tokens ? start : tokens;
}

static inline int64_t longest_of(int64_t blocks, int64_t tokens) {
    return (padded(tokens) / 32 + blocks - 1) / blocks * 32;
}

static void multiply_strips(const T *a, const T *panels, int64_t stride, float *c, int64_t of_c, int64_t rows,
                            int64_t n, int64_t k, int add) {
    multiply_and(a, panels, stride, address(panels, n / 32 * stride), c, of_c, rows, n, k, add, 0, 0);
}

/* The same from parts of `part` numbers, each `tokens` rows after the one before. */
static void parts_to_strips(const T *from, int64_t part, int64_t tokens, T *to, int64_t size, int64_t rows,
                            int64_t width) {
    for (int64_t i = 0; i < width; i += part) to_strips(from + i * tokens, part, to + i * rows, size, rows, part);
}

/* The product, rounded, in strips. */
static void product_strips(const T *a, const T *panels, float *c, T *to, int64_t rows, int64_t n, int64_t k) {
    for (int64_t j = 0; j < n; j += 32)
        multiply_and(a, panels + j * k, 0, address(panels, (j + 32) * k), c, 32, rows, 32, k, 0, finish_strip,
                     to + j * rows);
}

/* The first `size` rows of a product, rounded: n numbers in parts of `part`, each `tokens` rows after the one
   before. */
static void product_rows(const T *a, const T *panels, float *c, T *to, int64_t part, int64_t tokens, int64_t size,
                         int64_t rows, int64_t n, int64_t k) {
    for (int64_t j = 0; j < n; j += 32) {
        Rows into = {to + j / part * part * tokens + j % part, part, size};
        multiply_and(a, panels + j * k, 0, address(panels, (j + 32) * k), c, 32, rows, 32, k, 0, finish_rows, &into);
    }
}

/* A panel from `rows` rows of 32 numbers, each `stride` after the one before. */
static void to_panel(const T *from, int64_t stride, T *panel, int64_t rows) {
    for (int64_t r = 0; r < rows; r += 2) {
        const T *even = from + r * stride, *odd = even + stride;
#pragma omp simd
        for (int64_t i = 0; i < 32; i++) panel[r * 32 + 2 * i] = even[i], panel[r * 32 + 2 * i + 1] = odd[i];
    }
}

/* Panels of weights (outputs x inputs), with `room` for as many inputs more. */
void lay(const T *weight, T *panels, int64_t outputs, int64_t inputs, int64_t room) {
    fresh(panels, outputs * (inputs + room) * 2);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < outputs; j += 32)
        transpose((const Word *)(weight + j * inputs), (Word *)(panels + j * (inputs + room)), 32, inputs / 2);
}

/* The same of the transposed weights (inputs x outputs). */
void lay_transposed(const T *weight, T *panels, int64_t outputs, int64_t inputs, int64_t room) {
    fresh(panels, inputs * (outputs + room) * 2);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < inputs; j += 32) to_panel(weight + j, inputs, panels + j * (outputs + room), outputs);
}

/* A matrix in fp32 times `scaling`, rounded, into panels of `inputs` inputs, from output `row` and input `column` on.
   It is small: to share it out would take longer. */
void place(const float *from, T *panels, float scaling, int64_t rows, int64_t columns, int64_t of_row,
           int64_t of_column, int64_t inputs, int64_t row, int64_t column) {
    for (int64_t o = row, end; o < row + rows; o = end) {
        end = (o / 32 + 1) * 32 < row + rows ? (o / 32 + 1) * 32 : row + rows;
        for (int64_t i = 0; i < columns; i++) {
            T *to = panels + (o / 32 * inputs + (column + i) / 2 * 2) * 32 + o % 32 * 2 + (column + i) % 2;
            const float *own = from + (o - row) * of_row + i * of_column;
            for (int64_t r = 0; r < end - o; r++) to[2 * r] = narrow(own[r * of_row] * scaling);
        }
    }
}

/* columns x rows from rows x columns, times `scaling`; `stride` numbers from one row to the next */
void turned(const float *from, float *to, float scaling, int64_t rows, int64_t columns, int64_t stride) {
    for (int64_t i = 0; i < columns; i++)
        for (int64_t r = 0; r < rows; r++) to[i * rows + r] = from[r * stride + i] * scaling;
}

/* parts x tokens x part, outputs a token, from x (tokens x width): the products of its norm, and the thin ones (through
   `ranks` numbers a token, `thin`) beside them, if any. */
void enter(const T *x, const T *weight, const T *panels, const T *down, T *thin, float *inverse, T *out, float eps,
           int64_t tokens, int64_t width, int64_t outputs, int64_t part, int64_t ranks) {
    int64_t all = width + ranks, blocks = blocks_of(tokens, 2 * all + 128), block = longest_of(blocks, tokens);
    fresh(out, tokens * outputs * 2);
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = take(&memory, block * all, sizeof(T));
        float *c = take(&memory, block * 32, 4);
        begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t at = start_of(b, blocks, tokens), size = start_of(b + 1, blocks, tokens) - at, rows = padded(size);
            if (!size) continue;
            norm_rows(x + at * width, weight, in, inverse + at, eps, size, rows, width);
            product_strips(in, down, c, in + width * rows, rows, ranks, width);
            for (int64_t r = 0; r < size; r++)
                for (int64_t i = 0; i < ranks; i += 32)
                    memcpy(thin + (at + r) * ranks + i, in + (width + i) * rows + r * 32, 64);
            product_rows(in, panels, c, out + at * part, part, tokens, size, rows, outputs, all);
        }
        fence();
        end(tiles);
        leave(&memory);
    }
}

/* ranks x n from two matrices of `rows` rows in strips, of `ranks` and of n columns: the first one's transpose times
   the second. */
static void outer(const T *a, const T *b, T *turned, T *panel, float *c, int64_t rows, int64_t ranks, int64_t n) {
    for (int64_t i = 0; i < ranks; i += 32) {
        to_panel(a + i * rows, 32, panel, rows);
        for (int64_t r = 0; r < rows; r += 32)
            transpose((Word *)(panel + r * 32), (Word *)(turned + (r / 32 * ranks + i) * 32), 16, 32);
    }
    for (int64_t j = 0; j < n; j += 32) {
        to_panel(b + j * rows, 32, panel, rows);
        multiply_strips(turned, panel, 0, c + j, n, ranks, 32, rows, 0);
    }
}

/* The gradient of x, if it is `wanted`, and what `beside` brings of it, from that of enter's result; panels are of the
   transposed weights. `of_thin` (ranks x outputs, then ranks x width) is that of the thin products' weights. */
void enter_backward(const T *given, const T *beside, const T *x, const T *weight, const float *inverse, const T *panels,
                    const T *up, const T *thin, float *of_thin, T *of_x, int64_t tokens, int64_t width, int64_t outputs,
                    int64_t part, int64_t ranks, int64_t wanted) {
    int64_t all = outputs + ranks, of_sum = pitch(width);
    int64_t blocks = blocks_of(tokens, 2 * all + 4 * of_sum + 2 * width + 4 * ranks + 192);
    int64_t block = longest_of(blocks, tokens);
    int64_t count = ranks * (outputs + width);
    Memory shared = {.count = 0};
    float *parts = take(&shared, blocks * count, 4); /* of each block, so that their sum has one order */
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = take(&memory, block * all, sizeof(T)), *normed = take(&memory, block * width, sizeof(T));
        T *turned = take(&memory, ranks * block, sizeof(T)), *panel = take(&memory, block * 32, sizeof(T));
        float *sum = take(&memory, block * of_sum, 4), *c = take(&memory, block * 32, 4);
        T *own_thin = take(&memory, block * ranks, sizeof(T));
        begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t at = start_of(b, blocks, tokens), size = start_of(b + 1, blocks, tokens) - at, rows = padded(size);
            if (!size) {
                memset(parts + b * count, 0, count * 4);
                continue;
            }
            parts_to_strips(given + at * part, part, tokens, in, size, rows, outputs);
            product_strips(in, up, c, in + outputs * rows, rows, ranks, outputs);
            if (wanted) {
                multiply_strips(in, panels, 32 * all, sum, of_sum, rows, width, all, 0);
                norm_rows_backward(sum, of_sum, x + at * width, weight, inverse + at, beside + at * width,
                                   of_x + at * width, 0, ranks ? normed : 0, size, rows, width);
            } else
                for (int64_t r = 0; r < size; r++)
                    scale_row(x + (at + r) * width, weight, normed + r * 32, inverse[at + r], rows, width);
            if (!ranks) continue;
            to_strips(thin + at * ranks, ranks, own_thin, size, rows, ranks);
            outer(own_thin, in, turned, panel, parts + b * count, rows, ranks, outputs);
            for (int64_t i = 0; i < width; i += 32) memset(normed + i * rows + size * 32, 0, (rows - size) * 64);
            outer(in + outputs * rows, normed, turned, panel, parts + b * count + ranks * outputs, rows, ranks, width);
        }
#pragma omp for
        for (int64_t start = 0; start < count; start += 1024) { /* a multiple of 1024: 32 ranks by 32 numbers */
            int64_t stop = start + 1024 < count ? start + 1024 : count;
            for (int64_t b = 0; b < blocks; b++)
#pragma omp simd
                for (int64_t i = start; i < stop; i++) of_thin[i] = (b ? of_thin[i] : 0) + parts[b * count + i];
        }
        fence();
        end(tiles);
        leave(&memory);
    }
    leave(&shared);
}

/* tokens x width, what a layer returns, from its x and what its heads saw (heads x tokens x part, wide a token). For
   the gradient: `middle`, the sum after the attention, `inverse` of its norm, and the unit's factors (`both`), by
   panels, if `keep`. */
void rest(const T *x, const T *seen, const T *o, const T *weight, const T *gate_up, const T *down, T *middle,
          float *inverse, T *both, T *out, float eps, int64_t tokens, int64_t wide, int64_t part, int64_t width,
          int64_t inner, int64_t keep) {
    int64_t most = wide > width ? wide : width, of_sum = pitch(width);
    int64_t blocks = blocks_of(tokens, 2 * most + 2 * width + 4 * of_sum + 2 * CHUNK + 256);
    int64_t block = longest_of(blocks, tokens);
    fresh(middle, tokens * width * 2);
    fresh(out, tokens * width * 2);
    if (keep) fresh(both, tokens * inner * 4);
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = take(&memory, block * most, sizeof(T)), *h = take(&memory, block * CHUNK, sizeof(T));
        T *own = take(&memory, block * width, sizeof(T));
        float *sum = take(&memory, block * of_sum, 4), *c = take(&memory, block * 64, 4), *c_up = c + block * 32;
        begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t at = start_of(b, blocks, tokens), size = start_of(b + 1, blocks, tokens) - at, rows = padded(size);
            if (!size) continue;
            parts_to_strips(seen + at * part, part, tokens, in, size, rows, wide);
            multiply_strips(in, o, 32 * wide, sum, of_sum, rows, width, wide, 0);
            add_rows(x + at * width, sum, of_sum, own, middle + at * width, size, width);
            norm_rows(own, weight, in, inverse + at, eps, size, rows, width);
            for (int64_t start = 0; start < inner; start += CHUNK) {
                int64_t chunk = inner - start < CHUNK ? inner - start : CHUNK;
                for (int64_t j = 0; j < chunk; j += 32) {
                    const T *gates = gate_up + (start + j) * width, *ups = gates + inner * width;
                    Unit unit = {c, both + (start + j) * 2 * tokens + at * 64, h + j * rows, size, keep};
                    multiply_strips(in, gates, 32 * width, c, 32, rows, 32, width, 0);
                    multiply_and(in, ups, 0, address(ups, 32 * width), c_up, 32, rows, 32, width, 0, finish_unit,
                                 &unit);
                }
                multiply_strips(h, down + start * 32, 32 * inner, sum, of_sum, rows, width, chunk, start > 0);
            }
            add_rows(own, sum, of_sum, own, out + at * width, size, width);
        }
        fence();
        end(tiles);
        leave(&memory);
    }
}

/* The gradients of x and of what the heads saw from that of the layer's result. Panels are of the transposed
   weights. */
void rest_backward(const T *given, const T *o, const T *weight, const T *gate_up, const T *down, const T *middle,
                   const float *inverse, const T *both, T *of_x, T *of_seen, int64_t tokens, int64_t wide, int64_t part,
                   int64_t width, int64_t inner) {
    int64_t of_sum = pitch(width), blocks = blocks_of(tokens, 2 * width + 4 * of_sum + 4 * CHUNK + 128);
    int64_t block = longest_of(blocks, tokens);
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = take(&memory, block * width, sizeof(T)), *of_both = take(&memory, 2 * block * CHUNK, sizeof(T));
        float *sum = take(&memory, block * of_sum, 4), *c = take(&memory, block * 32, 4);
        begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t at = start_of(b, blocks, tokens), size = start_of(b + 1, blocks, tokens) - at, rows = padded(size);
            if (!size) continue;
            to_strips(given + at * width, width, in, size, rows, width);
            T *of_up = of_both + CHUNK * rows;
            for (int64_t start = 0; start < inner; start += CHUNK) {
                int64_t chunk = inner - start < CHUNK ? inner - start : CHUNK;
                for (int64_t j = 0; j < chunk; j += 32) {
                    Back unit = {both + (start + j) * 2 * tokens + at * 64, of_both + j * rows, of_up + j * rows, size};
                    multiply_and(in, down + (start + j) * width, 0, address(down, (start + j + 32) * width), c, 32,
                                 rows, 32, width, 0, finish_unit_backward, &unit);
                }
                multiply_strips(of_both, gate_up + start * 32, 64 * inner, sum, of_sum, rows, width, chunk, start > 0);
                multiply_strips(of_up, gate_up + (inner + start) * 32, 64 * inner, sum, of_sum, rows, width, chunk, 1);
            }
            norm_rows_backward(sum, of_sum, middle + at * width, weight, inverse + at, given + at * width,
                               of_x + at * width, in, 0, size, rows, width);
            product_rows(in, o, c, of_seen + at * part, part, tokens, size, rows, wide, width);
        }
        fence();
        end(tiles);
        leave(&memory);
    }
}

/* rows x outputs from x (rows x width) and weights (outputs x width) as they stand, in panels only while they are
   used */
void head(const T *x, const T *weight, T *out, int64_t rows, int64_t width, int64_t outputs) {
    int64_t most = most_of(2 * width + 128);
    fresh(out, rows * outputs * 2);
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = take(&memory, most * width, sizeof(T)), *panel = take(&memory, 32 * width, sizeof(T));
        float *c = take(&memory, most * 32, 4);
        begin(tiles);
        for (int64_t at = 0; at < rows; at += most) {
            int64_t size = rows - at < most ? rows - at : most, some = padded(size);
            to_strips(x + at * width, width, in, size, some, width);
#pragma omp for schedule(dynamic)
            for (int64_t j = 0; j < outputs; j += 32) {
                Rows into = {out + at * outputs + j, outputs, size};
                transpose((const Word *)(weight + j * width), (Word *)panel, 32, width / 2);
                multiply_and(in, panel, 0, address(weight, (j + 32) * width), c, 32, some, 32, width, 0, finish_rows,
                             &into);
            }
        }
        fence();
        end(tiles);
        leave(&memory);
    }
}

/* The gradient of x from that of out. */
void head_backward(const T *given, const T *weight, T *of_x, int64_t rows, int64_t width, int64_t outputs) {
    int64_t parts = omp_get_max_threads(), columns = padded((width + parts - 1) / parts), of_sum = pitch(columns);
    int64_t most = most_of(2 * CHUNK + 4 * of_sum);
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = take(&memory, most * CHUNK, sizeof(T)), *panel = take(&memory, 32 * CHUNK, sizeof(T));
        float *sum = take(&memory, most * of_sum, 4);
        begin(tiles);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < width; first += columns)
            for (int64_t at = 0; at < rows; at += most) {
                int64_t size = rows - at < most ? rows - at : most, some = padded(size);
                int64_t own = width - first < columns ? width - first : columns;
                for (int64_t start = 0; start < outputs; start += CHUNK) {
                    int64_t chunk = outputs - start < CHUNK ? outputs - start : CHUNK;
                    to_strips(given + at * outputs + start, outputs, in, size, some, chunk);
                    for (int64_t j = 0; j < own; j += 32) {
                        to_panel(weight + start * width + first + j, width, panel, chunk);
                        multiply_strips(in, panel, 0, sum + j, of_sum, some, 32, chunk, start > 0);
                    }
                }
                for (int64_t r = 0; r < size; r++)
                    for (int64_t j = 0; j < own; j += 32)
                        put_rounded(of_x + (at + r) * width + first + j, sum + r * of_sum + j);
            }
        fence();
        end(tiles);
        leave(&memory);
    }
}

#endif

/* Whether the functions above are quicker than torch's operators: with tiles they are. */
int tiles(void) {
#ifdef AMX
    return 1;
#else
    return 0;
#endif
}

/* Whether the functions above are there. */
int layers(void) {
#ifdef BF16
    return 1;
#else
    return 0;
#endif
}
