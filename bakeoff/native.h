/* What the files of native.py share. T is float, or bf16 as its 16 bits; arithmetic is fp32, and what is
   written is rounded to T. Each file is compiled once for each T. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

static inline float sigmoid(float x, float bound) { return 1.0f / (1.0f + exponential(-x, bound)); }

/* Rotary positions with halves paired; `sign` -1 turns back. */
static inline void turn(const T *from, const T *cos, const T *sin, float sign, T *to, int64_t width) {
    int64_t half = width / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float a = load(from[i]), b = load(from[i + half]);
        to[i] = narrow(a * load(cos[i]) - sign * b * load(sin[i]));
        to[i + half] = narrow(b * load(cos[i + half]) + sign * a * load(sin[i + half]));
    }
}
