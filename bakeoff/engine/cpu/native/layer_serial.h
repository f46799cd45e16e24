/* The inner loops of layer.c in plain C: what layer_amx.h computes by tiles, to be read and to be tested against. */

#include "layer.h"

/* C (rows x n), or what is added to it, is A (rows x k, in strips) times panels of `stride` numbers; rows, n and k are
   multiples of 32, and n is 32 where rows are finished. */
static void multiply_and(const T *a, const T *packed, int64_t stride, uintptr_t after, float *c, int64_t c_stride,
                         int64_t rows, int64_t n, int64_t k, int add, Finish *finish, const void *work) {
    (void)after;
    for (int64_t j = 0; j < n; j += 32, packed += stride)
        for (int64_t row = 0; row < rows; row++) {
            float sums[32];
            for (int64_t o = 0; o < 32; o++) sums[o] = add ? c[row * c_stride + j + o] : 0.0f;
            for (int64_t p = 0; p < k; p += 2) {
                const T *own = a + p / 32 * 32 * rows + row * 32 + p % 32;
                const Word *pairs = (const Word *)(packed + p * 32);
                float even = load(own[0]), odd = load(own[1]);
#pragma omp simd
                for (int64_t o = 0; o < 32; o++)
                    sums[o] += even * of_bits(pairs[o] << 16) + odd * of_bits(pairs[o] & 0xffff0000);
            }
            memcpy(c + row * c_stride + j, sums, sizeof(sums));
        }
    if (finish)
        for (int64_t row = 0; row < rows; row++) finish(work, row, c + row * 32);
}

/* 32 numbers rounded */
static void put_rounded(T *to, const float *from) {
    for (int64_t i = 0; i < 32; i++) to[i] = narrow(from[i]);
}

/* Strips of `rows` rows from the first `size` of them, d_model numbers, `stride` apart; the others are 0. */
static void to_strips(const T *from, int64_t stride, T *to, int64_t size, int64_t rows, int64_t d_model) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d_model; i++)
            to[i / 32 * 32 * rows + r * 32 + i % 32] = r < size ? from[r * stride + i] : narrow(0.0f);
}

/* x / sqrt(mean(x^2) + eps) * weight of a row, from 1 / sqrt(...), into strips; the quotient is rounded first, as
   transformers does it. */
static void scale_row(const T *x, const T *weight, T *to, float inverse, int64_t rows, int64_t d_model) {
    for (int64_t i = 0; i < d_model; i++)
        to[i / 32 * 32 * rows + i % 32] = narrow(load(narrow(load(x[i]) * inverse)) * load(weight[i]));
}

static void norm_rows(const T *x, const T *weight, T *to, float *inverse, float eps, int64_t size, int64_t rows,
                      int64_t d_model) {
    for (int64_t r = 0; r < size; r++, x += d_model) {
        float sum = 0;
        for (int64_t i = 0; i < d_model; i++) sum += load(x[i]) * load(x[i]);
        inverse[r] = 1.0f / sqrtf(sum / (float)d_model + eps);
        scale_row(x, weight, to + r * 32, inverse[r], rows, d_model);
    }
    for (int64_t i = 0; i < d_model; i += 32) memset(to + i * rows + size * 32, 0, (rows - size) * 32 * sizeof(T));
}

/* Writes grad_residual + the gradient of a norm's x, from that of its result in fp32, inverse g w - x inverse^3
   mean(g w x); also into `strips`, if any. `normed`, if any, are strips of the norm's result. */
static void norm_rows_backward(const float *grad_out, int64_t grad_stride, const T *x, const T *weight,
                               const float *inverse, const T *grad_residual, T *grad_x, T *strips, T *normed,
                               int64_t size, int64_t rows, int64_t d_model) {
    for (int64_t r = 0; r < size;
         r++, grad_out += grad_stride, x += d_model, grad_residual += d_model, grad_x += d_model) {
        float sum = 0, scale = inverse[r];
        for (int64_t i = 0; i < d_model; i++) sum += grad_out[i] * load(weight[i]) * load(x[i]);
        float along = -sum * scale * scale * scale / (float)d_model;
        if (normed) scale_row(x, weight, normed + r * 32, scale, rows, d_model);
        for (int64_t i = 0; i < d_model; i++) {
            T found = narrow(grad_out[i] * load(weight[i]) * scale + load(x[i]) * along + load(grad_residual[i]));
            grad_x[i] = found;
            if (strips) strips[i / 32 * 32 * rows + r * 32 + i % 32] = found;
        }
    }
}

static void finish_strip(const void *work, int64_t row, const float *sums) { put_rounded((T *)work + row * 32, sums); }

static void finish_rows(const void *work, int64_t row, const float *sums) {
    const Rows *rows = work;
    if (row < rows->size) put_rounded(rows->to + row * rows->stride, sums);
}

/* to = x + the sums, rounded first, of `size` rows of d_model numbers; in `copy`, too, which may be x */
static void add_rows(const T *x, const float *sums, int64_t sum_stride, T *copy, T *to, int64_t size, int64_t d_model) {
    for (int64_t r = 0; r < size; r++, x += d_model, sums += sum_stride, copy += d_model, to += d_model)
        for (int64_t i = 0; i < d_model; i++) copy[i] = to[i] = narrow(load(x[i]) + load(narrow(sums[i])));
}

/* silu(z) u of 32 numbers, z the gate and u up. Its factors for z and for u, with s the sigmoid of z, are kept
   for the gradient: u (s + z s (1 - s)) and z s. */
static void finish_unit(const void *work, int64_t row, const float *sums) {
    const Unit *unit = work;
    const float *gate = unit->gate + row * 32, limit = bound();
    T *factors = unit->factors + row * 64, *h = unit->h + row * 32;
    for (int64_t i = 0; i < 32; i++) {
        float s = sigmoid(gate[i], limit), grad_up = gate[i] * s;
        h[i] = narrow(grad_up * sums[i]);
        if (!unit->keep_factors || row >= unit->size) continue;
        factors[i] = narrow((s + grad_up * (1.0f - s)) * sums[i]);
        factors[32 + i] = narrow(grad_up);
    }
}

static void finish_unit_backward(const void *work, int64_t row, const float *sums) {
    const UnitBackward *unit = work;
    if (row >= unit->size) return;
    for (int64_t i = 0; i < 32; i++) {
        unit->grad_gate[row * 32 + i] = narrow(sums[i] * load(unit->factors[row * 64 + i]));
        unit->grad_up[row * 32 + i] = narrow(sums[i] * load(unit->factors[row * 64 + 32 + i]));
    }
}

static inline void fence(void) {}
