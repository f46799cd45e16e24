/* Products of small matrices, by tiles, bf16 dot products or plain vectors: what attention and decoding share. They
   take A row after row and B with PAIR rows interleaved, as the processor's instructions want them: a Word is so many
   numbers along the inner dimension, two bf16 or one float. Sums are fp32. */

#pragma once

#include "native.h"

#ifdef __AVX512F__
#define ROWS 8
#else
#define ROWS 4
#endif
#define LOG2_E 1.44269504f
#ifdef BF16
#define PAIR 2
#else
#define PAIR 1
#endif

#ifdef AMX

/* C (m x n), or what is added to it, is A (m x k words) B (k words x n); m, n and k are multiples of 16. */
static void multiply(const Word *a, int64_t of_a, const Word *b, int64_t of_b, float *c, int64_t of_c, int64_t m,
                     int64_t n, int64_t k, int add) {
    __asm__ volatile("" ::: "memory"); /* GCC's tile loads don't say that they read */
    if (n == 32 && k <= 32) { /* B stays in tiles */
        _tile_loadd(4, b, 4 * of_b);
        _tile_loadd(5, b + 16, 4 * of_b);
        if (k > 16) {
            _tile_loadd(6, b + 16 * of_b, 4 * of_b);
            _tile_loadd(7, b + 16 * of_b + 16, 4 * of_b);
        }
        for (int64_t i = 0; i < m; i += 16) {
            float *at = c + i * of_c;
            if (add) {
                _tile_loadd(0, at, 4 * of_c);
                _tile_loadd(1, at + 16, 4 * of_c);
            } else {
                _tile_zero(0);
                _tile_zero(1);
            }
            _tile_loadd(2, a + i * of_a, 4 * of_a);
            _tile_dpbf16ps(0, 2, 4);
            _tile_dpbf16ps(1, 2, 5);
            if (k > 16) {
                _tile_loadd(3, a + i * of_a + 16, 4 * of_a);
                _tile_dpbf16ps(0, 3, 6);
                _tile_dpbf16ps(1, 3, 7);
            }
            _tile_stored(0, at, 4 * of_c);
            _tile_stored(1, at + 16, 4 * of_c);
        }
        return;
    }
    for (int64_t i = 0; i < m; i += 32)
        for (int64_t j = 0; j < n; j += 32) {
            int below = i + 16 < m, beside = j + 16 < n;
            float *at = c + i * of_c + j, *under = at + 16 * of_c;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            if (add) {
                _tile_loadd(0, at, 4 * of_c);
                if (beside) _tile_loadd(1, at + 16, 4 * of_c);
                if (below) _tile_loadd(2, under, 4 * of_c);
                if (below && beside) _tile_loadd(3, under + 16, 4 * of_c);
            }
            for (int64_t p = 0; p < k; p += 16) {
                _tile_loadd(4, a + i * of_a + p, 4 * of_a);
                _tile_loadd(6, b + p * of_b + j, 4 * of_b);
                _tile_dpbf16ps(0, 4, 6);
                if (beside) {
                    _tile_loadd(7, b + p * of_b + j + 16, 4 * of_b);
                    _tile_dpbf16ps(1, 4, 7);
                }
                if (below) {
                    _tile_loadd(5, a + (i + 16) * of_a + p, 4 * of_a);
                    _tile_dpbf16ps(2, 5, 6);
                    if (beside) _tile_dpbf16ps(3, 5, 7);
                }
            }
            _tile_stored(0, at, 4 * of_c);
            if (beside) _tile_stored(1, at + 16, 4 * of_c);
            if (below) _tile_stored(2, under, 4 * of_c);
            if (below && beside) _tile_stored(3, under + 16, 4 * of_c);
        }
}

#else

static inline Floats plus(Floats sum, Words a, Words b) {
#ifndef BF16
    return sum + (Floats)a * (Floats)b;
#elif defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum += (Floats)(a << 16) * (Floats)(b << 16);
    return sum + (Floats)(a & 0xffff0000) * (Floats)(b & 0xffff0000);
#endif
}

/* C (m x n), or what is added to it, is A (m x k words) B (k words x n); m, n and k are multiples of 16. */
static void multiply(const Word *a, int64_t of_a, const Word *b, int64_t of_b, float *c, int64_t of_c, int64_t m,
                     int64_t n, int64_t k, int add) {
    for (int64_t i = 0; i < m; i += ROWS)
        for (int64_t j = 0; j < n; j += 16) {
            Floats sum[ROWS][16 / LANES];
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < 16 / LANES; v++)
                    sum[r][v] = add ? *(Floats *)(c + (i + r) * of_c + j + v * LANES) : (Floats){0};
            for (int64_t p = 0; p < k; p++)
                for (int r = 0; r < ROWS; r++) {
                    Words same = a[(i + r) * of_a + p] + (Words){0};
                    for (int v = 0; v < 16 / LANES; v++)
                        sum[r][v] = plus(sum[r][v], same, *(const Words *)(b + p * of_b + j + v * LANES));
                }
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < 16 / LANES; v++) *(Floats *)(c + (i + r) * of_c + j + v * LANES) = sum[r][v];
        }
}

#endif

/* B from rows x columns: PAIR rows interleaved, in `room` or, where one is a word, in place. */
static const Word *paired(const T *from, Word *room, int64_t rows, int64_t columns) {
    if (PAIR == 1) return (const Word *)from;
    for (int64_t i = 0; i < rows / PAIR; i++) {
        const T *even = from + i * PAIR * columns, *odd = even + columns;
        Word *to = room + i * columns;
#pragma omp simd
        for (int64_t j = 0; j < columns; j++) to[j] = (Word)even[j] | (Word)odd[j] << 16;
    }
    return room;
}

/* Asks for numbers that are read a block later. */
static inline void soon(const T *from, int64_t size) {
    for (int64_t i = 0; i < size; i += 64 / (int64_t)sizeof(T)) __builtin_prefetch(from + i, 0, 2);
}

static inline void copy(const T *from, T *to, int64_t width) {
#ifdef VECTORS
    if (width % 32 == 0) {
        for (int64_t i = 0; i < width; i += 32) _mm512_storeu_si512(to + i, _mm512_loadu_si512(from + i));
        return;
    }
#endif
    memcpy(to, from, width * sizeof(T));
}

/* `size` tokens of a head of a document from place `start`, each `full` numbers of which `width` are its own, turned if
   `cos`; the others, and what is past the document's end, are 0. */
static void gather(const T *rows, int64_t stride, const T *cos, const T *sin, T *to, int64_t start, int64_t size,
                   int64_t length, int64_t width, int64_t full) {
    for (int64_t place = start; place < start + size; place++, to += full) {
        int64_t own = place < length ? width : 0;
        soon(rows + (place + 32) * stride, width);
        if (own && cos)
            turn(rows + place * stride, cos + place * width, sin + place * width, to, width);
        else if (own)
            copy(rows + place * stride, to, width);
        memset(to + own, 0, (full - own) * sizeof(T));
    }
}
