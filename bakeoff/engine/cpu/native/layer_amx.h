/* The inner loops of layer.c by tiles (AMX) and AVX-512. */

#include "layer.h"

#define NEAR 640 /* inputs up to which a panel stays whole in the nearest cache */

/* C (rows x n), or what is added to it, is A (rows x k, in strips) times panels of `stride` numbers; rows, n and k are
   multiples of 32, and n is 32 where rows are finished. A is read past the nearest cache, which is left to the
   panel. `after` is the address of what the caller reads after the last panel: it is prefetched. */
INLINE void multiply_and(const T *a, const T *packed, int64_t stride, uintptr_t after, float *c, int64_t c_stride,
                         int64_t rows, int64_t n, int64_t k, int add, Finish *finish, const void *work) {
    int64_t ahead = 1024 / rows < 8 ? 1024 / rows : 8; /* cache lines of what comes next for each 32 of k */
    int64_t part = k > NEAR ? CHUNK : k, each = (1024 + part - 1) / part, done = 0;
    for (int64_t j = 0; j < n; j += 32, packed = j < n ? packed + stride : packed)
        for (int64_t start = 0; start < k; start += part) {
            int64_t end = start + part < k ? start + part : k;
            uintptr_t next = end < k ? address(packed, end * 32) : j + 32 < n ? address(packed, stride) : after;
            for (int64_t i = 0; i < rows; i += 32) {
                const T *own = a + i * 32;
                float *at = c + i * c_stride + j, *under = at + 16 * c_stride;
                __asm__ volatile("" ::: "memory"); /* GCC's tile loads don't say that they read */
                if (add || start) {
                    _tile_loadd(0, at, 4 * c_stride);
                    _tile_loadd(1, at + 16, 4 * c_stride);
                    _tile_loadd(2, under, 4 * c_stride);
                    _tile_loadd(3, under + 16, 4 * c_stride);
                } else {
                    _tile_zero(0);
                    _tile_zero(1);
                    _tile_zero(2);
                    _tile_zero(3);
                }
                for (int64_t p = start; p < end; p += 32) {
                    _tile_stream_loadd(4, own + p * rows, 64);
                    _tile_loadd(6, packed + p * 32, 128);
                    _tile_loadd(7, packed + p * 32 + 32, 128);
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
                _tile_stored(0, at, 4 * c_stride);
                _tile_stored(1, at + 16, 4 * c_stride);
                _tile_stored(2, under, 4 * c_stride);
                _tile_stored(3, under + 16, 4 * c_stride);
                __asm__ volatile("" ::: "memory");
            }
        }
    if (finish)
        for (; done < rows; done++) finish(work, done, c + done * 32);
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

/* Strips of `rows` rows from the first `size` of them, d_model numbers, `stride` apart; the others are 0. */
static void to_strips(const T *from, int64_t stride, T *to, int64_t size, int64_t rows, int64_t d_model) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d_model; i += 32)
            _mm512_store_si512(to + i * rows + r * 32,
                               r < size ? _mm512_loadu_si512(from + r * stride + i) : _mm512_setzero_si512());
}

/* x / sqrt(mean(x^2) + eps) * weight of a row, from 1 / sqrt(...), into strips; the quotient is rounded first, as
   transformers does it. */
static void scale_row(const T *x, const T *weight, T *to, float inverse, int64_t rows, int64_t d_model) {
    __m512 scale = _mm512_set1_ps(inverse), found[2];
    for (int64_t i = 0; i < d_model; i += 32) {
        __m512i own = _mm512_loadu_si512(x + i), by = _mm512_loadu_si512(weight + i);
        for (int half = 0; half < 2; half++) found[half] = _mm512_mul_ps(widened(own, half), scale);
        own = both_rounded(found);
        for (int half = 0; half < 2; half++) found[half] = _mm512_mul_ps(widened(own, half), widened(by, half));
        _mm512_store_si512(to + i * rows, both_rounded(found));
    }
}

static void norm_rows(const T *x, const T *weight, T *to, float *inverse, float eps, int64_t size, int64_t rows,
                      int64_t d_model) {
    for (int64_t r = 0; r < size; r++, x += d_model) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < d_model; i += 32) {
            __m512i own = _mm512_loadu_si512(x + i);
            for (int half = 0; half < 2; half++) sum = _mm512_fmadd_ps(widened(own, half), widened(own, half), sum);
        }
        inverse[r] = 1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)d_model + eps);
        scale_row(x, weight, to + r * 32, inverse[r], rows, d_model);
    }
    for (int64_t i = 0; i < d_model; i += 32) memset(to + i * rows + size * 32, 0, (rows - size) * 64);
}

/* Writes grad_residual + the gradient of a norm's x, from that of its result in fp32, inverse g w - x inverse^3
   mean(g w x); also into `strips`, if any. `normed`, if any, are strips of the norm's result. */
static void norm_rows_backward(const float *grad_out, int64_t grad_stride, const T *x, const T *weight,
                               const float *inverse, const T *grad_residual, T *grad_x, T *strips, T *normed,
                               int64_t size, int64_t rows, int64_t d_model) {
    for (int64_t r = 0; r < size;
         r++, grad_out += grad_stride, x += d_model, grad_residual += d_model, grad_x += d_model) {
        __m512 sum = _mm512_setzero_ps(), scale = _mm512_set1_ps(inverse[r]), found[2];
        for (int64_t i = 0; i < d_model; i += 32) {
            __m512i own = _mm512_loadu_si512(x + i), by = _mm512_loadu_si512(weight + i);
            for (int half = 0; half < 2; half++) {
                __m512 g = _mm512_mul_ps(_mm512_loadu_ps(grad_out + i + half * 16), widened(by, half));
                sum = _mm512_fmadd_ps(g, widened(own, half), sum);
            }
        }
        float along = -_mm512_reduce_add_ps(sum) * inverse[r] * inverse[r] * inverse[r] / (float)d_model;
        for (int64_t i = 0; i < d_model; i += 32) {
            __m512i own = _mm512_loadu_si512(x + i), by = _mm512_loadu_si512(weight + i);
            __m512i plus = _mm512_loadu_si512(grad_residual + i);
            for (int half = 0; half < 2; half++) {
                __m512 g = _mm512_mul_ps(_mm512_loadu_ps(grad_out + i + half * 16), widened(by, half));
                found[half] = _mm512_fmadd_ps(widened(own, half), _mm512_set1_ps(along), widened(plus, half));
                found[half] = _mm512_fmadd_ps(g, scale, found[half]);
            }
            put(grad_x + i, both_rounded(found));
            if (strips) _mm512_store_si512(strips + i * rows + r * 32, both_rounded(found));
        }
        if (normed) scale_row(x, weight, normed + r * 32, inverse[r], rows, d_model);
    }
}

INLINE void finish_strip(const void *work, int64_t row, const float *sums) {
    _mm512_store_si512((T *)work + row * 32, rounded(sums));
}

INLINE void finish_rows(const void *work, int64_t row, const float *sums) {
    const Rows *rows = work;
    if (row < rows->size) put(rows->to + row * rows->stride, rounded(sums));
}

/* to = x + the sums, rounded first, of `size` rows of d_model numbers; in `copy`, too, which may be x */
static void add_rows(const T *x, const float *sums, int64_t sum_stride, T *copy, T *to, int64_t size, int64_t d_model) {
    for (int64_t r = 0; r < size; r++, x += d_model, sums += sum_stride, copy += d_model, to += d_model)
        for (int64_t i = 0; i < d_model; i += 32) {
            __m512i own = _mm512_loadu_si512(x + i), sum = rounded(sums + i);
            __m512 found[2] = {_mm512_add_ps(widened(own, 0), widened(sum, 0)),
                               _mm512_add_ps(widened(own, 1), widened(sum, 1))};
            put(to + i, both_rounded(found));
            _mm512_store_si512(copy + i, both_rounded(found));
        }
}

/* silu(z) u of 32 numbers, z the gate and u up. Its factors for z and for u, with s the sigmoid of z, are kept
   for the gradient: u (s + z s (1 - s)) and z s. */
INLINE void finish_unit(const void *work, int64_t row, const float *sums) {
    const Unit *unit = work;
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 found[2], grad_gate[2], grad_up[2];
    for (int half = 0; half < 2; half++) {
        __m512 z = _mm512_load_ps(unit->gate + row * 32 + half * 16), up = _mm512_load_ps(sums + half * 16);
        __m512 s = sigmoids(z);
        grad_up[half] = _mm512_mul_ps(z, s);
        grad_gate[half] = _mm512_mul_ps(_mm512_fmadd_ps(grad_up[half], _mm512_sub_ps(one, s), s), up);
        found[half] = _mm512_mul_ps(grad_up[half], up);
    }
    if (unit->keep_factors && row < unit->size) {
        put(unit->factors + row * 64, both_rounded(grad_gate));
        put(unit->factors + row * 64 + 32, both_rounded(grad_up));
    }
    _mm512_store_si512(unit->h + row * 32, both_rounded(found));
}

INLINE void finish_unit_backward(const void *work, int64_t row, const float *sums) {
    const UnitBackward *unit = work;
    if (row >= unit->size) return;
    __m512i by_gate = _mm512_loadu_si512(unit->factors + row * 64),
            by_up = _mm512_loadu_si512(unit->factors + row * 64 + 32);
    __m512 grad_gate[2], grad_up[2];
    for (int half = 0; half < 2; half++) {
        __m512 grad_out = _mm512_load_ps(sums + half * 16);
        grad_gate[half] = _mm512_mul_ps(grad_out, widened(by_gate, half));
        grad_up[half] = _mm512_mul_ps(grad_out, widened(by_up, half));
    }
    _mm512_store_si512(unit->grad_gate + row * 32, both_rounded(grad_gate));
    _mm512_store_si512(unit->grad_up + row * 32, both_rounded(grad_up));
}

INLINE void put_rounded(T *to, const float *from) { put(to, rounded(from)); }

static inline void fence(void) { _mm_sfence(); } /* what went past the caches is there for all threads */
