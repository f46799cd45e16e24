/* The inner loops of layer.c in plain C: what layer_amx.h computes by tiles, to be read and to be tested against. */

#include "layer.h"

/* C (rows x n), or what is added to it, is A (rows x k, in strips) times panels of `stride` numbers; rows, n and k are
   multiples of 32, and n is 32 where rows are finished. */
static void multiply_and(const T *a, const T *panels, int64_t stride, uintptr_t after, float *c, int64_t of_c,
                         int64_t rows, int64_t n, int64_t k, int add, Finish *finish, const void *work) {
    (void)after;
    for (int64_t j = 0; j < n; j += 32, panels += stride)
        for (int64_t row = 0; row < rows; row++) {
            float sums[32];
            for (int64_t o = 0; o < 32; o++) sums[o] = add ? c[row * of_c + j + o] : 0.0f;
            for (int64_t p = 0; p < k; p += 2) {
                const T *own = a + p / 32 * 32 * rows + row * 32 + p % 32;
                const Word *pairs = (const Word *)(panels + p * 32);
                float even = load(own[0]), odd = load(own[1]);
#pragma omp simd
                for (int64_t o = 0; o < 32; o++)
                    sums[o] += even * of_bits(pairs[o] << 16) + odd * of_bits(pairs[o] & 0xffff0000);
            }
            memcpy(c + row * of_c + j, sums, sizeof(sums));
        }
    if (finish)
        for (int64_t row = 0; row < rows; row++) finish(work, row, c + row * 32);
}

/* 32 numbers rounded */
static void put_rounded(T *to, const float *from) {
    for (int64_t i = 0; i < 32; i++) to[i] = narrow(from[i]);
}

/* Strips of `rows` rows from the first `size` of them, `width` numbers of `stride` each; the others are 0. */
static void to_strips(const T *from, int64_t stride, T *to, int64_t size, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++)
            to[i / 32 * 32 * rows + r * 32 + i % 32] = r < size ? from[r * stride + i] : narrow(0.0f);
}

/* x / sqrt(mean(x^2) + eps) * weight of a row, from 1 / sqrt(...), into strips; the quotient is rounded first, as
   transformers does it. */
static void scale_row(const T *x, const T *weight, T *to, float inverse, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < width; i++)
        to[i / 32 * 32 * rows + i % 32] = narrow(load(narrow(load(x[i]) * inverse)) * load(weight[i]));
}

static void norm_rows(const T *x, const T *weight, T *to, float *inverse, float eps, int64_t size, int64_t rows,
                      int64_t width) {
    for (int64_t r = 0; r < size; r++, x += width) {
        float sum = 0;
        for (int64_t i = 0; i < width; i++) sum += load(x[i]) * load(x[i]);
        inverse[r] = 1.0f / sqrtf(sum / (float)width + eps);
        scale_row(x, weight, to + r * 32, inverse[r], rows, width);
    }
    for (int64_t i = 0; i < width; i += 32) memset(to + i * rows + size * 32, 0, (rows - size) * 32 * sizeof(T));
}

/* Writes `beside` + the gradient of a norm's x, from that of its result in fp32: inverse g w - x inverse^3 mean(g w x);
   also into `strips`, if any. `normed`, if any, are strips of the norm's result. */
static void norm_rows_backward(const float *given, int64_t of_given, const T *x, const T *weight, const float *inverse,
                               const T *beside, T *of_x, T *strips, T *normed, int64_t size, int64_t rows,
                               int64_t width) {
    for (int64_t r = 0; r < size; r++, given += of_given, x += width, beside += width, of_x += width) {
        float sum = 0, scale = inverse[r];
        for (int64_t i = 0; i < width; i++) sum += given[i] * load(weight[i]) * load(x[i]);
        float along = -sum * scale * scale * scale / (float)width;
        if (normed) scale_row(x, weight, normed + r * 32, scale, rows, width);
        for (int64_t i = 0; i < width; i++) {
            T found = narrow(given[i] * load(weight[i]) * scale + load(x[i]) * along + load(beside[i]));
            of_x[i] = found;
            if (strips) strips[i / 32 * 32 * rows + r * 32 + i % 32] = found;
        }
    }
}

static void finish_strip(const void *work, int64_t row, const float *sums) { put_rounded((T *)work + row * 32, sums); }

static void finish_rows(const void *work, int64_t row, const float *sums) {
    const Rows *rows = work;
    if (row < rows->size) put_rounded(rows->to + row * rows->stride, sums);
}

/* to = x + the sums, rounded first, of `size` rows of `width` numbers; in `kept`, too, which may be x */
static void add_rows(const T *x, const float *sums, int64_t of_sums, T *kept, T *to, int64_t size, int64_t width) {
    for (int64_t r = 0; r < size; r++, x += width, sums += of_sums, kept += width, to += width)
        for (int64_t i = 0; i < width; i++) kept[i] = to[i] = narrow(load(x[i]) + load(narrow(sums[i])));
}

/* silu(z) u of 32 numbers, z the gate and u up. Kept for the gradient are its factors for z and for u, with s the
   sigmoid of z: u (s + z s (1 - s)) and z s. */
static void finish_unit(const void *work, int64_t row, const float *sums) {
    const Unit *unit = work;
    const float *gate = unit->gate + row * 32, most = bound();
    T *kept = unit->kept + row * 64, *h = unit->h + row * 32;
    for (int64_t i = 0; i < 32; i++) {
        float s = sigmoid(gate[i], most), of_up = gate[i] * s;
        h[i] = narrow(of_up * sums[i]);
        if (!unit->keep || row >= unit->size) continue;
        kept[i] = narrow((s + of_up * (1.0f - s)) * sums[i]);
        kept[32 + i] = narrow(of_up);
    }
}

static void finish_unit_backward(const void *work, int64_t row, const float *sums) {
    const Back *unit = work;
    if (row >= unit->size) return;
    for (int64_t i = 0; i < 32; i++) {
        unit->of_gate[row * 32 + i] = narrow(sums[i] * load(unit->kept[row * 64 + i]));
        unit->of_up[row * 32 + i] = narrow(sums[i] * load(unit->kept[row * 64 + 32 + i]));
    }
}

static inline void fence(void) {}
