/* Numbers, memory and the choice of instructions. T is float, or bf16 as its 16 bits; arithmetic is fp32, and what
   is written is rounded to T. */

#pragma once

#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__clang__) || !defined(_OPENMP)
#error "expected GCC with OpenMP: the threads must be those of torch, which brings GCC's runtime"
#endif

#define INLINE static inline __attribute__((always_inline))

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

static inline float sigmoid(float x, float bound) { return 1.0f / (1.0f + exponential(-x, bound)); }

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
static inline void prefault(void *matrix, int64_t bytes) {
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

static inline void *allocate(Memory *memory, int64_t count, int64_t size) {
    void *found = aligned_alloc(64, (count * size / 64 + 1) * 64);
    if (!found) {
        fputs("bakeoff: out of memory\n", stderr);
        abort();
    }
    return memory->all[memory->count++] = found;
}

static inline void free_all(Memory *memory) {
    while (memory->count) free(memory->all[--memory->count]);
}

/* What is computed with vectors: the version for the processor's instructions, else the serial one. A function's suffix
   says what it needs: _serial nothing (GCC may use vectors), _avx512bf16 AVX-512 with its bf16 instructions. */
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#if defined(BF16) && defined(__AVX512BF16__) && defined(__AVX512DQ__)
#define AVX512BF16
#endif
#if defined(AVX512BF16) && defined(__AMX_BF16__)
#define AMX
#endif

#define QUERIES 32 /* of a head at a time in an attention */
#define LOG2_E 1.44269504f
#ifdef BF16
#define PAIR 2 /* numbers in a Word */
#else
#define PAIR 1
#endif

#include "vectors_serial.h"
#ifdef AVX512BF16
#include "vectors_avx512bf16.h"
#define BEST(name) name##_avx512bf16
#else
#define BEST(name) name##_serial
#endif

#define rope BEST(rope)
#define rope_backward BEST(rope_backward)
#define narrow_all BEST(narrow_all)
#define copy_row BEST(copy_row)
#define dot BEST(dot)
#define softmax_block BEST(softmax_block)
#define softmax_block_backward BEST(softmax_block_backward)
#define softmax_row BEST(softmax_row)
