/* A decoder layer of Llama's kind around its attention, and the output head, on processors with tiles (AMX): `enter` is
   the norm and the products in front of the attention, `rest` all behind it. Tokens are computed in blocks that stay in
   the processor's cache from their first norm to their last sum. A block's numbers stand in strips: for each 32 columns
   all rows, 64 bytes a row. Weights stand in panels: for each 32 outputs the inputs in pairs, 32 words a pair. No token
   depends on its block nor on the number of threads. */

#include "native.h"

#ifdef AMX

#define CACHE 1700000 /* bytes of a thread's own cache that a block may fill: of 2 MB since Sapphire Rapids */
#define CHUNK 512     /* inner numbers of a gated unit, and inputs of a long panel, at a time */
#define NEAR 640      /* inputs up to which a panel stays whole in the nearest cache */

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

/* What is done with a row of a product, of 32 numbers, while the tiles compute the next ones. */
typedef void Finish(const void *work, int64_t row, const float *sums);

/* An address to prefetch. It may lie behind the array that it was made from, where no pointer may. */
static inline uintptr_t address(const T *start, int64_t numbers) {
    return (uintptr_t)start + (uintptr_t)numbers * sizeof(T);
}

/* C (rows x n), or what is added to it, is A (rows x k, in strips) times panels of `stride` numbers; rows, n and k are
   multiples of 32, and n is 32 where rows are finished. A is read past the nearest cache, which is left to the
   panel. `after` is the address of what the caller reads after the last panel: it is prefetched. */
INLINE void multiply_and(const T *a, const T *panels, int64_t stride, uintptr_t after, float *c, int64_t of_c,
                         int64_t rows, int64_t n, int64_t k, int add, Finish *finish, const void *work) {
    int64_t ahead = 1024 / rows < 8 ? 1024 / rows : 8; /* cache lines of what comes next for each 32 of k */
    int64_t part = k > NEAR ? CHUNK : k, each = (1024 + part - 1) / part, done = 0;
    for (int64_t j = 0; j < n; j += 32, panels = j < n ? panels + stride : panels)
        for (int64_t start = 0; start < k; start += part) {
            int64_t end = start + part < k ? start + part : k;
            uintptr_t next = end < k ? address(panels, end * 32) : j + 32 < n ? address(panels, stride) : after;
            for (int64_t i = 0; i < rows; i += 32) {
                const T *own = a + i * 32;
                float *at = c + i * of_c + j, *under = at + 16 * of_c;
                __asm__ volatile("" ::: "memory"); /* GCC's tile loads don't say that they read */
                if (add || start) {
                    _tile_loadd(0, at, 4 * of_c);
                    _tile_loadd(1, at + 16, 4 * of_c);
                    _tile_loadd(2, under, 4 * of_c);
                    _tile_loadd(3, under + 16, 4 * of_c);
                } else {
                    _tile_zero(0);
                    _tile_zero(1);
                    _tile_zero(2);
                    _tile_zero(3);
                }
                for (int64_t p = start; p < end; p += 32) {
                    _tile_stream_loadd(4, own + p * rows, 64);
                    _tile_loadd(6, panels + p * 32, 128);
                    _tile_loadd(7, panels + p * 32 + 32, 128);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_stream_loadd(5, own + p * rows + 512, 64);
                    for (int64_t line = 0; line < ahead; line++, next += 64)
                        _mm_prefetch((const char *)next, _MM_HINT_T1);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                    if (finish && end == k)
                        for (int64_t row = 0; row < each && done < i; row++, done++) finish(work, done, c + done * 32);
                }
                _tile_stored(0, at, 4 * of_c);
                _tile_stored(1, at + 16, 4 * of_c);
                _tile_stored(2, under, 4 * of_c);
                _tile_stored(3, under + 16, 4 * of_c);
                __asm__ volatile("" ::: "memory");
            }
        }
    if (finish)
        for (; done < rows; done++) finish(work, done, c + done * 32);
}

static void multiply_strips(const T *a, const T *panels, int64_t stride, float *c, int64_t of_c, int64_t rows,
                            int64_t n, int64_t k, int add) {
    multiply_and(a, panels, stride, address(panels, n / 32 * stride), c, of_c, rows, n, k, add, 0, 0);
}

/* 32 numbers rounded, and half of such ones as fp32 */
INLINE __m512i rounded(const float *from) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
}

INLINE __m512i both_rounded(const __m512 *halves) { return (__m512i)_mm512_cvtne2ps_pbh(halves[1], halves[0]); }

INLINE __m512 widened(__m512i from, int half) {
    __m256i part = half ? _mm512_extracti64x4_epi64(from, 1) : _mm512_castsi512_si256(from);
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(part), 16);
}

INLINE __m512 sigmoids(__m512 x) {
    __m512 e = powers(_mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f)));
    return _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0f))); /* 6e-5 off at most */
}

/* Past the caches to where other calls read it: fetching first what is overwritten would take as long as writing it. */
INLINE void put(T *to, __m512i numbers) { _mm512_stream_si512((void *)to, numbers); }

/* Strips of `rows` rows from the first `size` of them, `width` numbers of `stride` each; the others are 0. */
static void to_strips(const T *from, int64_t stride, T *to, int64_t size, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i += 32)
            _mm512_store_si512(to + i * rows + r * 32,
                               r < size ? _mm512_loadu_si512(from + r * stride + i) : _mm512_setzero_si512());
}

/* The same from parts of `part` numbers, each `tokens` rows after the one before. */
static void parts_to_strips(const T *from, int64_t part, int64_t tokens, T *to, int64_t size, int64_t rows,
                            int64_t width) {
    for (int64_t i = 0; i < width; i += part) to_strips(from + i * tokens, part, to + i * rows, size, rows, part);
}

/* x / sqrt(mean(x^2) + eps) * weight of a row, from 1 / sqrt(...), into strips; the quotient is rounded first, as
   transformers does it. */
static void scale_row(const T *x, const T *weight, T *to, float inverse, int64_t rows, int64_t width) {
    __m512 scale = _mm512_set1_ps(inverse), found[2];
    for (int64_t i = 0; i < width; i += 32) {
        __m512i own = _mm512_loadu_si512(x + i), by = _mm512_loadu_si512(weight + i);
        for (int half = 0; half < 2; half++) found[half] = _mm512_mul_ps(widened(own, half), scale);
        own = both_rounded(found);
        for (int half = 0; half < 2; half++) found[half] = _mm512_mul_ps(widened(own, half), widened(by, half));
        _mm512_store_si512(to + i * rows, both_rounded(found));
    }
}

static void norm_rows(const T *x, const T *weight, T *to, float *inverse, float eps, int64_t size, int64_t rows,
                      int64_t width) {
    for (int64_t r = 0; r < size; r++, x += width) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < width; i += 32) {
            __m512i own = _mm512_loadu_si512(x + i);
            for (int half = 0; half < 2; half++)
                sum = _mm512_fmadd_ps(widened(own, half), widened(own, half), sum);
        }
        inverse[r] = 1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)width + eps);
        scale_row(x, weight, to + r * 32, inverse[r], rows, width);
    }
    for (int64_t i = 0; i < width; i += 32) memset(to + i * rows + size * 32, 0, (rows - size) * 64);
}

/* Writes `beside` + the gradient of a norm's x, from that of its result in fp32: inverse g w - x inverse^3 mean(g w x);
   also into `strips`, if any. `normed`, if any, are strips of the norm's result. */
static void norm_rows_backward(const float *given, int64_t of_given, const T *x, const T *weight, const float *inverse,
                               const T *beside, T *of_x, T *strips, T *normed, int64_t size, int64_t rows,
                               int64_t width) {
    for (int64_t r = 0; r < size; r++, given += of_given, x += width, beside += width, of_x += width) {
        __m512 sum = _mm512_setzero_ps(), scale = _mm512_set1_ps(inverse[r]), found[2];
        for (int64_t i = 0; i < width; i += 32) {
            __m512i own = _mm512_loadu_si512(x + i), by = _mm512_loadu_si512(weight + i);
            for (int half = 0; half < 2; half++) {
                __m512 g = _mm512_mul_ps(_mm512_loadu_ps(given + i + half * 16), widened(by, half));
                sum = _mm512_fmadd_ps(g, widened(own, half), sum);
            }
        }
        float along = -_mm512_reduce_add_ps(sum) * inverse[r] * inverse[r] * inverse[r] / (float)width;
        for (int64_t i = 0; i < width; i += 32) {
            __m512i own = _mm512_loadu_si512(x + i), by = _mm512_loadu_si512(weight + i);
            __m512i plus = _mm512_loadu_si512(beside + i);
            for (int half = 0; half < 2; half++) {
                __m512 g = _mm512_mul_ps(_mm512_loadu_ps(given + i + half * 16), widened(by, half));
                found[half] = _mm512_fmadd_ps(widened(own, half), _mm512_set1_ps(along), widened(plus, half));
                found[half] = _mm512_fmadd_ps(g, scale, found[half]);
            }
            put(of_x + i, both_rounded(found));
            if (strips) _mm512_store_si512(strips + i * rows + r * 32, both_rounded(found));
        }
        if (normed) scale_row(x, weight, normed + r * 32, inverse[r], rows, width);
    }
}

INLINE void finish_strip(const void *work, int64_t row, const float *sums) {
    _mm512_store_si512((T *)work + row * 32, rounded(sums));
}

/* The product, rounded, in strips. */
static void product_strips(const T *a, const T *panels, float *c, T *to, int64_t rows, int64_t n, int64_t k) {
    for (int64_t j = 0; j < n; j += 32)
        multiply_and(a, panels + j * k, 0, address(panels, (j + 32) * k), c, 32, rows, 32, k, 0, finish_strip,
                     to + j * rows);
}

/* Where 32 columns of a product go: its first `size` rows. */
typedef struct {
    T *to;
    int64_t stride, size;
} Rows;

INLINE void finish_rows(const void *work, int64_t row, const float *sums) {
    const Rows *rows = work;
    if (row < rows->size) put(rows->to + row * rows->stride, rounded(sums));
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

/* to = x + the sums, rounded first, of `size` rows of `width` numbers; in `kept`, too, which may be x */
static void add_rows(const T *x, const float *sums, int64_t of_sums, T *kept, T *to, int64_t size, int64_t width) {
    for (int64_t r = 0; r < size; r++, x += width, sums += of_sums, kept += width, to += width)
        for (int64_t i = 0; i < width; i += 32) {
            __m512i own = _mm512_loadu_si512(x + i), sum = rounded(sums + i);
            __m512 found[2] = {_mm512_add_ps(widened(own, 0), widened(sum, 0)),
                               _mm512_add_ps(widened(own, 1), widened(sum, 1))};
            put(to + i, both_rounded(found));
            _mm512_store_si512(kept + i, both_rounded(found));
        }
}

typedef struct {
    const float *gate;
    T *kept, *h;
    int64_t size, keep;
} Unit;

/* silu(z) u of 32 numbers, z the gate and u up. Kept for the gradient are its factors for z and for u, with s the
   sigmoid of z: u (s + z s (1 - s)) and z s. */
INLINE void finish_unit(const void *work, int64_t row, const float *sums) {
    const Unit *unit = work;
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 found[2], of_gate[2], of_up[2];
    for (int half = 0; half < 2; half++) {
        __m512 z = _mm512_load_ps(unit->gate + row * 32 + half * 16), up = _mm512_load_ps(sums + half * 16);
        __m512 s = sigmoids(z);
        of_up[half] = _mm512_mul_ps(z, s);
        of_gate[half] = _mm512_mul_ps(_mm512_fmadd_ps(of_up[half], _mm512_sub_ps(one, s), s), up);
        found[half] = _mm512_mul_ps(of_up[half], up);
    }
    if (unit->keep && row < unit->size) {
        put(unit->kept + row * 64, both_rounded(of_gate));
        put(unit->kept + row * 64 + 32, both_rounded(of_up));
    }
    _mm512_store_si512(unit->h + row * 32, both_rounded(found));
}

typedef struct {
    const T *kept;
    T *of_gate, *of_up;
    int64_t size;
} Back;

INLINE void finish_unit_backward(const void *work, int64_t row, const float *sums) {
    const Back *unit = work;
    if (row >= unit->size) return;
    __m512i by_gate = _mm512_loadu_si512(unit->kept + row * 64), by_up = _mm512_loadu_si512(unit->kept + row * 64 + 32);
    __m512 of_gate[2], of_up[2];
    for (int half = 0; half < 2; half++) {
        __m512 given = _mm512_load_ps(sums + half * 16);
        of_gate[half] = _mm512_mul_ps(given, widened(by_gate, half));
        of_up[half] = _mm512_mul_ps(given, widened(by_up, half));
    }
    _mm512_store_si512(unit->of_gate + row * 32, both_rounded(of_gate));
    _mm512_store_si512(unit->of_up + row * 32, both_rounded(of_up));
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
        _mm_sfence(); /* what went past the caches is there for all threads */
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
        for (int64_t start = 0; start < count; start += 1024) {
            int64_t end = start + 1024 < count ? start + 1024 : count;
            for (int64_t b = 0; b < blocks; b++)
#pragma omp simd
                for (int64_t i = start; i < end; i++) of_thin[i] = (b ? of_thin[i] : 0) + parts[b * count + i];
        }
        _mm_sfence(); /* what went past the caches is there for all threads */
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
        _mm_sfence(); /* what went past the caches is there for all threads */
        end(tiles);
        leave(&memory);
    }
}

/* The gradients of x and of what the heads saw from that of the layer's result. Panels are of the transposed
   weights. */
void rest_backward(const T *given, const T *o, const T *weight, const T *gate_up, const T *down, const T *middle,
                   const float *inverse, const T *both, T *of_x, T *of_seen, int64_t tokens, int64_t wide,
                   int64_t part, int64_t width, int64_t inner) {
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
        _mm_sfence(); /* what went past the caches is there for all threads */
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
        _mm_sfence();
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
                        put(of_x + (at + r) * width + first + j, rounded(sum + r * of_sum + j));
            }
        _mm_sfence();
        end(tiles);
        leave(&memory);
    }
}

/* Whether the functions above are there. */
int tiles(void) { return 1; }

#else

int tiles(void) { return 0; }

#endif
