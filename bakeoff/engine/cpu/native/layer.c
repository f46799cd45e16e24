/* A decoder layer of Llama's kind around its attention, and the output head, in bf16: pre_attention is the norm and
   the products in front of the attention, post_attention all behind it. Tokens are computed in blocks that stay in
   the processor's cache from their first norm to their last sum. No token depends on its block nor on the number of
   threads. The inner loops stand in layer_amx.h for processors with tiles, and in layer_serial.h, by which the same
   layers are tested everywhere. Packed weights (d_out x d_in) stand as layer.h says. */

#include "products.h"

#ifdef BF16
#ifdef AMX
#include "layer_amx.h"
#else
#include "layer_serial.h"
#endif

#define CACHE 1700000 /* bytes of a thread's own cache that a block may fill: of 2 MB since Sapphire Rapids */

/* fp32 numbers from one row to the next: an odd number of cache lines, so that rows don't fight for the same ones. */
static inline int64_t pitch(int64_t size) { return (size / 16 | 1) * 16; }

/* How many rows a block has at most that take so many bytes each. */
static inline int64_t rows_that_fit(int64_t bytes) { return CACHE / bytes < 32 ? 32 : CACHE / bytes / 32 * 32; }

/* Into how many blocks tokens are cut that take so many bytes each: as many for every thread, if that can be. */
static int64_t blocks_of(int64_t tokens, int64_t bytes) {
    int64_t blocks = (tokens + rows_that_fit(bytes) - 1) / rows_that_fit(bytes), threads = omp_get_max_threads();
    return (blocks + !blocks + threads - 1) / threads * threads;
}

/* Where a block starts; sizes differ by 32 at most. */
static inline int64_t start_of(int64_t block, int64_t blocks, int64_t tokens) {
    int64_t start = padded(tokens) / 32 * block / blocks * 32;
    return start < tokens ? start : tokens;
}

static inline int64_t longest_block(int64_t blocks, int64_t tokens) {
    return (padded(tokens) / 32 + blocks - 1) / blocks * 32;
}

static void multiply_strips(const T *a, const T *packed, int64_t stride, float *c, int64_t c_stride, int64_t rows,
                            int64_t n, int64_t k, int add) {
    multiply_and(a, packed, stride, address(packed, n / 32 * stride), c, c_stride, rows, n, k, add, 0, 0);
}

/* to_strips of `size` tokens from heads x tokens x head_dim: d_model numbers a token. */
static void heads_to_strips(const T *from, int64_t head_dim, int64_t tokens, T *to, int64_t size, int64_t rows,
                            int64_t d_model) {
    for (int64_t i = 0; i < d_model; i += head_dim)
        to_strips(from + i * tokens, head_dim, to + i * rows, size, rows, head_dim);
}

/* The product, rounded, in strips. */
static void product_strips(const T *a, const T *packed, float *c, T *to, int64_t rows, int64_t n, int64_t k) {
    for (int64_t j = 0; j < n; j += 32)
        multiply_and(a, packed + j * k, 0, address(packed, (j + 32) * k), c, 32, rows, 32, k, 0, finish_strip,
                     to + j * rows);
}

/* The first `size` rows of a product, rounded, as heads x tokens x head_dim: n numbers a token. */
static void product_rows(const T *a, const T *packed, float *c, T *to, int64_t head_dim, int64_t tokens, int64_t size,
                         int64_t rows, int64_t n, int64_t k) {
    for (int64_t j = 0; j < n; j += 32) {
        Rows into = {to + j / head_dim * head_dim * tokens + j % head_dim, head_dim, size};
        multiply_and(a, packed + j * k, 0, address(packed, (j + 32) * k), c, 32, rows, 32, k, 0, finish_rows, &into);
    }
}

/* A panel from `rows` rows of 32 numbers, each `stride` after the one before. */
static void pack_panel(const T *from, int64_t stride, T *panel, int64_t rows) {
    for (int64_t r = 0; r < rows; r += 2) {
        const T *even = from + r * stride, *odd = even + stride;
#pragma omp simd
        for (int64_t i = 0; i < 32; i++) panel[r * 32 + 2 * i] = even[i], panel[r * 32 + 2 * i + 1] = odd[i];
    }
}

/* packed (d_out x (d_in + room)) from weight (d_out x d_in): the `room` is left for a LoRA. */
void pack(const T *weight, T *packed, int64_t d_out, int64_t d_in, int64_t room) {
    prefault(packed, d_out * (d_in + room) * 2);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < d_out; j += 32)
        transpose((const Word *)(weight + j * d_in), (Word *)(packed + j * (d_in + room)), 32, d_in / 2);
}

/* packed (d_in x (d_out + room)) from the transposed weight (d_out x d_in). */
void pack_transposed(const T *weight, T *packed, int64_t d_out, int64_t d_in, int64_t room) {
    prefault(packed, d_in * (d_out + room) * 2);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < d_in; j += 32) pack_panel(weight + j, d_in, packed + j * (d_out + room), d_out);
}

/* Writes a matrix (rows x columns) times `scaling`, rounded, into packed weights of d_in inputs, from output `row` and
   input `column` on. It is small: to share it out would take longer. */
void pack_lora(const float *from, T *packed, float scaling, int64_t rows, int64_t columns, int64_t row_stride,
               int64_t column_stride, int64_t d_in, int64_t row, int64_t column) {
    for (int64_t o = row, end; o < row + rows; o = end) {
        end = (o / 32 + 1) * 32 < row + rows ? (o / 32 + 1) * 32 : row + rows;
        for (int64_t i = 0; i < columns; i++) {
            T *to = packed + (o / 32 * d_in + (column + i) / 2 * 2) * 32 + o % 32 * 2 + (column + i) % 2;
            const float *own = from + (o - row) * row_stride + i * column_stride;
            for (int64_t r = 0; r < end - o; r++) to[2 * r] = narrow(own[r * row_stride] * scaling);
        }
    }
}

/* to (columns x rows) from rows x columns, times `scaling`; `stride` numbers from one row to the next. */
void transpose_scaled(const float *from, float *to, float scaling, int64_t rows, int64_t columns, int64_t stride) {
    for (int64_t i = 0; i < columns; i++)
        for (int64_t r = 0; r < rows; r++) to[i * rows + r] = from[r * stride + i] * scaling;
}

/* Queries, keys and values of a layer: the products of its norm with their weights, and with a LoRA beside them.
   x           tokens x d_model
   weight      d_model: the norm's
   packed      d_out x (d_model + rank): the weights and the scaled lora_B beside them
   lora_A      rank x d_model, packed
   lora_inner  tokens x rank: x lora_A', for the gradient
   inverse     tokens: 1 / sqrt(mean(x^2) + eps), for the gradient
   out         heads x tokens x head_dim, d_out numbers a token */
void pre_attention_forward(const T *x, const T *weight, const T *packed, const T *lora_A, T *lora_inner, float *inverse,
                           T *out, float eps, int64_t tokens, int64_t d_model, int64_t d_out, int64_t head_dim,
                           int64_t rank) {
    int64_t all = d_model + rank, blocks = blocks_of(tokens, 2 * all + 128), block = longest_block(blocks, tokens);
    prefault(out, tokens * d_out * 2);
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = allocate(&memory, block * all, sizeof(T));
        float *c = allocate(&memory, block * 32, 4);
        tiles_begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t at = start_of(b, blocks, tokens), size = start_of(b + 1, blocks, tokens) - at, rows = padded(size);
            if (!size) continue;
            norm_rows(x + at * d_model, weight, in, inverse + at, eps, size, rows, d_model);
            product_strips(in, lora_A, c, in + d_model * rows, rows, rank, d_model);
            for (int64_t r = 0; r < size; r++)
                for (int64_t i = 0; i < rank; i += 32)
                    memcpy(lora_inner + (at + r) * rank + i, in + (d_model + i) * rows + r * 32, 64);
            product_rows(in, packed, c, out + at * head_dim, head_dim, tokens, size, rows, d_out, all);
        }
        fence();
        tiles_end(tiles);
        free_all(&memory);
    }
}

/* c (rank x n) = a' b, from a (rows x rank) and b (rows x n) in strips. */
static void outer(const T *a, const T *b, T *transposed, T *panel, float *c, int64_t rows, int64_t rank, int64_t n) {
    for (int64_t i = 0; i < rank; i += 32) {
        pack_panel(a + i * rows, 32, panel, rows);
        for (int64_t r = 0; r < rows; r += 32)
            transpose((Word *)(panel + r * 32), (Word *)(transposed + (r / 32 * rank + i) * 32), 16, 32);
    }
    for (int64_t j = 0; j < n; j += 32) {
        pack_panel(b + j * rows, 32, panel, rows);
        multiply_strips(transposed, panel, 0, c + j, n, rank, 32, rows, 0);
    }
}

/* grad_x (tokens x d_model), if need_grad_x, from grad_out (heads x tokens x head_dim) and grad_residual (tokens x
   d_model), which is added. The other shapes are pre_attention_forward's, but:
   packed     d_model x (d_out + rank): the transposed weights
   lora_B     rank x d_out: transposed, packed
   grad_lora  rank x d_out, then rank x d_model: gradients of the scaled lora_B, transposed, and of lora_A */
void pre_attention_backward(const T *grad_out, const T *grad_residual, const T *x, const T *weight,
                            const float *inverse, const T *packed, const T *lora_B, const T *lora_inner,
                            float *grad_lora, T *grad_x, int64_t tokens, int64_t d_model, int64_t d_out,
                            int64_t head_dim, int64_t rank, int64_t need_grad_x) {
    int64_t all = d_out + rank, sum_stride = pitch(d_model);
    int64_t blocks = blocks_of(tokens, 2 * all + 4 * sum_stride + 2 * d_model + 4 * rank + 192);
    int64_t block = longest_block(blocks, tokens);
    int64_t count = rank * (d_out + d_model);
    Memory shared = {.count = 0};
    float *parts = allocate(&shared, blocks * count, 4); /* of each block, so that their sum has one order */
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = allocate(&memory, block * all, sizeof(T)), *normed = allocate(&memory, block * d_model, sizeof(T));
        T *transposed = allocate(&memory, rank * block, sizeof(T)), *panel = allocate(&memory, block * 32, sizeof(T));
        float *sum = allocate(&memory, block * sum_stride, 4), *c = allocate(&memory, block * 32, 4);
        T *own_lora_inner = allocate(&memory, block * rank, sizeof(T));
        tiles_begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t at = start_of(b, blocks, tokens), size = start_of(b + 1, blocks, tokens) - at, rows = padded(size);
            if (!size) {
                memset(parts + b * count, 0, count * 4);
                continue;
            }
            heads_to_strips(grad_out + at * head_dim, head_dim, tokens, in, size, rows, d_out);
            product_strips(in, lora_B, c, in + d_out * rows, rows, rank, d_out);
            if (need_grad_x) {
                multiply_strips(in, packed, 32 * all, sum, sum_stride, rows, d_model, all, 0);
                norm_rows_backward(sum, sum_stride, x + at * d_model, weight, inverse + at,
                                   grad_residual + at * d_model, grad_x + at * d_model, 0, rank ? normed : 0, size,
                                   rows, d_model);
            } else
                for (int64_t r = 0; r < size; r++)
                    scale_row(x + (at + r) * d_model, weight, normed + r * 32, inverse[at + r], rows, d_model);
            if (!rank) continue;
            to_strips(lora_inner + at * rank, rank, own_lora_inner, size, rows, rank);
            outer(own_lora_inner, in, transposed, panel, parts + b * count, rows, rank, d_out);
            for (int64_t i = 0; i < d_model; i += 32) memset(normed + i * rows + size * 32, 0, (rows - size) * 64);
            outer(in + d_out * rows, normed, transposed, panel, parts + b * count + rank * d_out, rows, rank, d_model);
        }
#pragma omp for
        for (int64_t start = 0; start < count; start += 1024) { /* a multiple of 1024: 32 ranks by 32 numbers */
            int64_t stop = start + 1024 < count ? start + 1024 : count;
            for (int64_t b = 0; b < blocks; b++)
#pragma omp simd
                for (int64_t i = start; i < stop; i++) grad_lora[i] = (b ? grad_lora[i] : 0) + parts[b * count + i];
        }
        fence();
        tiles_end(tiles);
        free_all(&memory);
    }
    free_all(&shared);
}

/* What a layer returns, out, from its x and from what its heads return.
   x, out     tokens x d_model
   heads_out  heads x tokens x head_dim, d_heads numbers a token
   o          d_model x d_heads, packed; weight: d_model, the second norm's
   gate_up    2 d_ff x d_model, packed; down: d_model x d_ff, packed
   residual   tokens x d_model: the sum after the attention, for the gradient
   inverse    tokens: of the second norm, for the gradient
   factors    d_ff / 32 x tokens x 64: what finish_unit says, for the gradient, if keep_factors */
void post_attention_forward(const T *x, const T *heads_out, const T *o, const T *weight, const T *gate_up,
                            const T *down, T *residual, float *inverse, T *factors, T *out, float eps, int64_t tokens,
                            int64_t d_heads, int64_t head_dim, int64_t d_model, int64_t d_ff, int64_t keep_factors) {
    int64_t widest = d_heads > d_model ? d_heads : d_model, sum_stride = pitch(d_model);
    int64_t blocks = blocks_of(tokens, 2 * widest + 2 * d_model + 4 * sum_stride + 2 * CHUNK + 256);
    int64_t block = longest_block(blocks, tokens);
    prefault(residual, tokens * d_model * 2);
    prefault(out, tokens * d_model * 2);
    if (keep_factors) prefault(factors, tokens * d_ff * 4);
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = allocate(&memory, block * widest, sizeof(T)), *h = allocate(&memory, block * CHUNK, sizeof(T));
        T *own = allocate(&memory, block * d_model, sizeof(T));
        float *sum = allocate(&memory, block * sum_stride, 4), *c = allocate(&memory, block * 64, 4),
              *c_up = c + block * 32;
        tiles_begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t at = start_of(b, blocks, tokens), size = start_of(b + 1, blocks, tokens) - at, rows = padded(size);
            if (!size) continue;
            heads_to_strips(heads_out + at * head_dim, head_dim, tokens, in, size, rows, d_heads);
            multiply_strips(in, o, 32 * d_heads, sum, sum_stride, rows, d_model, d_heads, 0);
            add_rows(x + at * d_model, sum, sum_stride, own, residual + at * d_model, size, d_model);
            norm_rows(own, weight, in, inverse + at, eps, size, rows, d_model);
            for (int64_t start = 0; start < d_ff; start += CHUNK) {
                int64_t chunk = d_ff - start < CHUNK ? d_ff - start : CHUNK;
                for (int64_t j = 0; j < chunk; j += 32) {
                    const T *gates = gate_up + (start + j) * d_model, *ups = gates + d_ff * d_model;
                    Unit unit = {c, factors + (start + j) * 2 * tokens + at * 64, h + j * rows, size, keep_factors};
                    multiply_strips(in, gates, 32 * d_model, c, 32, rows, 32, d_model, 0);
                    multiply_and(in, ups, 0, address(ups, 32 * d_model), c_up, 32, rows, 32, d_model, 0, finish_unit,
                                 &unit);
                }
                multiply_strips(h, down + start * 32, 32 * d_ff, sum, sum_stride, rows, d_model, chunk, start > 0);
            }
            add_rows(own, sum, sum_stride, own, out + at * d_model, size, d_model);
        }
        fence();
        tiles_end(tiles);
        free_all(&memory);
    }
}

/* grad_x (tokens x d_model) and grad_heads_out (as heads_out) from grad_out (tokens x d_model). The other shapes are
   post_attention_forward's, but packed weights are of the transposed ones. */
void post_attention_backward(const T *grad_out, const T *o, const T *weight, const T *gate_up, const T *down,
                             const T *residual, const float *inverse, const T *factors, T *grad_x, T *grad_heads_out,
                             int64_t tokens, int64_t d_heads, int64_t head_dim, int64_t d_model, int64_t d_ff) {
    int64_t sum_stride = pitch(d_model), blocks = blocks_of(tokens, 2 * d_model + 4 * sum_stride + 4 * CHUNK + 128);
    int64_t block = longest_block(blocks, tokens);
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = allocate(&memory, block * d_model, sizeof(T)),
          *grad_gate = allocate(&memory, 2 * block * CHUNK, sizeof(T));
        float *sum = allocate(&memory, block * sum_stride, 4), *c = allocate(&memory, block * 32, 4);
        tiles_begin(tiles);
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t at = start_of(b, blocks, tokens), size = start_of(b + 1, blocks, tokens) - at, rows = padded(size);
            if (!size) continue;
            to_strips(grad_out + at * d_model, d_model, in, size, rows, d_model);
            T *grad_up = grad_gate + CHUNK * rows;
            for (int64_t start = 0; start < d_ff; start += CHUNK) {
                int64_t chunk = d_ff - start < CHUNK ? d_ff - start : CHUNK;
                for (int64_t j = 0; j < chunk; j += 32) {
                    UnitBackward unit = {factors + (start + j) * 2 * tokens + at * 64, grad_gate + j * rows,
                                         grad_up + j * rows, size};
                    multiply_and(in, down + (start + j) * d_model, 0, address(down, (start + j + 32) * d_model), c, 32,
                                 rows, 32, d_model, 0, finish_unit_backward, &unit);
                }
                multiply_strips(grad_gate, gate_up + start * 32, 64 * d_ff, sum, sum_stride, rows, d_model, chunk,
                                start > 0);
                multiply_strips(grad_up, gate_up + (d_ff + start) * 32, 64 * d_ff, sum, sum_stride, rows, d_model,
                                chunk, 1);
            }
            norm_rows_backward(sum, sum_stride, residual + at * d_model, weight, inverse + at, grad_out + at * d_model,
                               grad_x + at * d_model, in, 0, size, rows, d_model);
            product_rows(in, o, c, grad_heads_out + at * head_dim, head_dim, tokens, size, rows, d_heads, d_model);
        }
        fence();
        tiles_end(tiles);
        free_all(&memory);
    }
}

/* Logits (rows x vocab_size) of x (rows x d_model) by weight (vocab_size x d_model), packed only while it is used. */
void head_forward(const T *x, const T *weight, T *out, int64_t rows, int64_t d_model, int64_t vocab_size) {
    int64_t most_rows = rows_that_fit(2 * d_model + 128);
    prefault(out, rows * vocab_size * 2);
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = allocate(&memory, most_rows * d_model, sizeof(T)), *panel = allocate(&memory, 32 * d_model, sizeof(T));
        float *c = allocate(&memory, most_rows * 32, 4);
        tiles_begin(tiles);
        for (int64_t at = 0; at < rows; at += most_rows) {
            int64_t size = rows - at < most_rows ? rows - at : most_rows, some = padded(size);
            to_strips(x + at * d_model, d_model, in, size, some, d_model);
#pragma omp for schedule(dynamic)
            for (int64_t j = 0; j < vocab_size; j += 32) {
                Rows into = {out + at * vocab_size + j, vocab_size, size};
                transpose((const Word *)(weight + j * d_model), (Word *)panel, 32, d_model / 2);
                multiply_and(in, panel, 0, address(weight, (j + 32) * d_model), c, 32, some, 32, d_model, 0,
                             finish_rows, &into);
            }
        }
        fence();
        tiles_end(tiles);
        free_all(&memory);
    }
}

/* grad_x (rows x d_model) from grad_out (rows x vocab_size). */
void head_backward(const T *grad_out, const T *weight, T *grad_x, int64_t rows, int64_t d_model, int64_t vocab_size) {
    int64_t parts = omp_get_max_threads(), columns = padded((d_model + parts - 1) / parts), sum_stride = pitch(columns);
    int64_t most_rows = rows_that_fit(2 * CHUNK + 4 * sum_stride);
#pragma omp parallel
    {
        uint8_t tiles[64];
        Memory memory = {.count = 0};
        T *in = allocate(&memory, most_rows * CHUNK, sizeof(T)), *panel = allocate(&memory, 32 * CHUNK, sizeof(T));
        float *sum = allocate(&memory, most_rows * sum_stride, 4);
        tiles_begin(tiles);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < d_model; first += columns)
            for (int64_t at = 0; at < rows; at += most_rows) {
                int64_t size = rows - at < most_rows ? rows - at : most_rows, some = padded(size);
                int64_t own = d_model - first < columns ? d_model - first : columns;
                for (int64_t start = 0; start < vocab_size; start += CHUNK) {
                    int64_t chunk = vocab_size - start < CHUNK ? vocab_size - start : CHUNK;
                    to_strips(grad_out + at * vocab_size + start, vocab_size, in, size, some, chunk);
                    for (int64_t j = 0; j < own; j += 32) {
                        pack_panel(weight + start * d_model + first + j, d_model, panel, chunk);
                        multiply_strips(in, panel, 0, sum + j, sum_stride, some, 32, chunk, start > 0);
                    }
                }
                for (int64_t r = 0; r < size; r++)
                    for (int64_t j = 0; j < own; j += 32)
                        put_rounded(grad_x + (at + r) * d_model + first + j, sum + r * sum_stride + j);
            }
        fence();
        tiles_end(tiles);
        free_all(&memory);
    }
}

#define HAS_LAYERS 1
#else
#define HAS_LAYERS 0
#endif

/* Whether the functions above are quicker than torch's operators: with tiles they are. */
int tiles(void) { return HAS_TILES; }

/* Whether the functions above are there. */
int layers(void) { return HAS_LAYERS; }
