/* What the files of compiler.py share. T is float, or bf16 as its 16 bits; arithmetic is fp32, and what is
   written is rounded to T. Each file is compiled once for each T. */

#pragma once

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#if defined(BF16) && defined(__AVX512BF16__) && defined(__AVX512DQ__)
#define VECTORS
#endif
#if defined(VECTORS) && defined(__AMX_BF16__)
#define AMX
#endif

#if defined(__clang__) || !defined(_OPENMP)
#error "expected GCC with OpenMP: the threads must be those of torch, which brings GCC's runtime"
#endif

static inline float of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

#ifdef BF16
typedef uint16_t T;

static inline float load(T x) { return of_bits((uint32_t)x << 16); }

/* To the nearest, ties to even. The NaN of a processor's own making stays one. */
static inline T narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (T)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#else
typedef float T;

static inline float load(T x) { return x; }

static inline T narrow(float x) { return x; }
#endif

/* How far from 0 the argument of an exponential counts. Were it a constant, GCC would compute the results at both ends
   beside those between them: some of those ends are denormal, which takes processors of Intel 100 times as long. */
__attribute__((noipa)) static float bound(void) { return 87.0f; }

/* e^x by 2^n times a polynomial, within 2 units of the last place (Moshier's Cephes, expf); from -bound to bound */
static inline float exponential(float x, float bound) {
    x = x < -bound ? -bound : x;
    x = x > bound ? bound : x;
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* the nearest whole number */
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * of_bits((uint32_t)((int32_t)n + 127) << 23);
}

#define INLINE static inline __attribute__((always_inline))

/* 2^t for what is rounded to bf16 next: 2^n, n whole, times a polynomial of t - n, the best of its degree (2.6e-6
   off) */
#ifdef VECTORS
INLINE __m512 powers(__m512 t) {
    __m512 r = _mm512_reduce_ps(t, 1), p = _mm512_set1_ps(0.0135341799f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0520114303f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.241442785f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.693003833f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.00000262f));
    return _mm512_scalef_ps(p, t);
}
#endif

static inline float sigmoid(float x, float bound) { return 1.0f / (1.0f + exponential(-x, bound)); }

#ifdef VECTORS
/* 16 numbers as fp32, and such ones rounded */
INLINE __m512 wide(const T *from) {
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}

INLINE void put_narrow(T *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }
#endif

/* Rotary positions with halves paired. */
static inline void turn(const T *from, const T *cos, const T *sin, T *to, int64_t width) {
    int64_t half = width / 2, i = 0;
#ifdef VECTORS
    for (; i + 16 <= half; i += 16) {
        __m512 a = wide(from + i), b = wide(from + i + half);
        put_narrow(to + i, _mm512_fmsub_ps(a, wide(cos + i), _mm512_mul_ps(b, wide(sin + i))));
        put_narrow(to + i + half, _mm512_fmadd_ps(b, wide(cos + i + half), _mm512_mul_ps(a, wide(sin + i + half))));
    }
#endif
#pragma omp simd
    for (int64_t j = i; j < half; j++) {
        float a = load(from[j]), b = load(from[j + half]);
        to[j] = narrow(a * load(cos[j]) - b * load(sin[j]));
        to[j + half] = narrow(b * load(cos[j + half]) + a * load(sin[j + half]));
    }
}

/* The gradient of what was turned, from that of the result. */
static inline void turn_back(const float *from, const T *cos, const T *sin, T *to, int64_t width) {
    int64_t half = width / 2, i = 0;
#ifdef VECTORS
    for (; i + 16 <= half; i += 16) {
        __m512 a = _mm512_loadu_ps(from + i), b = _mm512_loadu_ps(from + i + half);
        put_narrow(to + i, _mm512_fmadd_ps(a, wide(cos + i), _mm512_mul_ps(b, wide(sin + i + half))));
        put_narrow(to + i + half, _mm512_fmsub_ps(b, wide(cos + i + half), _mm512_mul_ps(a, wide(sin + i))));
    }
#endif
#pragma omp simd
    for (int64_t j = i; j < half; j++) {
        float a = from[j], b = from[j + half];
        to[j] = narrow(a * load(cos[j]) + b * load(sin[j + half]));
        to[j + half] = narrow(b * load(cos[j + half]) - a * load(sin[j]));
    }
}

/* 32 bits: a float, or two bf16 */
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
typedef uint32_t Word __attribute__((may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* columns x rows words from rows x columns, multiples of 16: squares of LANES, in which rows trade ever larger parts */
__attribute__((noinline)) static void transpose(const Word *from, Word *to, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i += LANES)
        for (int64_t j = 0; j < columns; j += LANES) {
            Words own[LANES], lane, other;
            for (int r = 0; r < LANES; r++) {
                own[r] = *(const Words *)(from + (i + r) * columns + j);
                lane[r] = r;
            }
#pragma GCC unroll 4
            for (int part = 1; part < LANES; part *= 2) {
                Words low = lane + (lane & part) * (LANES / part - 1), high = low + part;
#pragma GCC unroll 16
                for (int r = 0; r < LANES; r++) {
                    if (r & part) continue;
                    other = own[r + part];
                    own[r + part] = __builtin_shuffle(own[r], other, high);
                    own[r] = __builtin_shuffle(own[r], other, low);
                }
            }
            for (int c = 0; c < LANES; c++) *(Words *)(to + (j + c) * rows + i) = own[c];
        }
}

static inline int64_t padded(int64_t size) { return (size + 31) / 32 * 32; }

/* Asks for a large matrix's memory at once, by all threads, if it was never used: page by page, each as it is first
   written, takes longer. */
static inline void fresh(void *matrix, int64_t bytes) {
#ifdef MADV_POPULATE_WRITE
    const int64_t page = 4096, piece = 1 << 20;
    uintptr_t first = ((uintptr_t)matrix + page - 1) / page * page, end = ((uintptr_t)matrix + bytes) / page * page;
    unsigned char used;
    if (bytes < piece || mincore((void *)((first + end) / 2 / page * page), page, &used) || used & 1) return;
#pragma omp parallel for schedule(dynamic)
    for (uintptr_t at = first; at < end; at += piece)
        madvise((void *)at, end - at < (uintptr_t)piece ? end - at : (uintptr_t)piece, MADV_POPULATE_WRITE);
#else
    (void)matrix, (void)bytes;
#endif
}

/* What a thread computes in. */
typedef struct {
    void *all[24];
    int count;
} Memory;

static inline void *take(Memory *memory, int64_t count, int64_t size) {
    void *found = aligned_alloc(64, (count * size / 64 + 1) * 64);
    if (!found) {
        fputs("bakeoff: out of memory\n", stderr);
        abort();
    }
    return memory->all[memory->count++] = found;
}

static inline void leave(Memory *memory) {
    while (memory->count) free(memory->all[--memory->count]);
}

/* `size` numbers, a multiple of 32 */
static inline void narrow_all(const float *from, T *to, int64_t size) {
#if defined(BF16) && defined(__AVX512BF16__)
    for (int64_t i = 0; i < size; i += 32)
        _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16),
                                                                 _mm512_loadu_ps(from + i)));
#else
#pragma omp simd
    for (int64_t i = 0; i < size; i++) to[i] = narrow(from[i]);
#endif
}

/* The processor's tiles: 16 rows of 64 bytes each. A thread configures them for itself. */
#ifdef AMX
static const uint8_t TILES[64] __attribute__((aligned(64))) = {
    1, [16] = 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, [48] = 16, 16, 16, 16, 16, 16, 16, 16};

static inline void begin(uint8_t *before) {
    _tile_storeconfig(before); /* oneDNN's, which it may believe to be there */
    _tile_loadconfig(TILES);
}

static inline void end(const uint8_t *before) { _tile_loadconfig(before); }

#else
static inline void begin(uint8_t *before) { (void)before; }

static inline void end(const uint8_t *before) { (void)before; }
#endif
