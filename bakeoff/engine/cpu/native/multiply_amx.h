/* The product of small matrices by the processor's tiles (AMX): 16 rows of 64 bytes each. T is bf16. */

#pragma once

#include <sys/syscall.h>
#include <unistd.h>

/* Asks the system for the tiles: 0 where it refuses. */
static int tiles_allowed(void) {
    return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */);
}

/* A thread configures its tiles for itself. */
static const uint8_t TILES[64] __attribute__((aligned(64))) = {
    1, [16] = 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, [48] = 16, 16, 16, 16, 16, 16, 16, 16};

static inline void tiles_begin(uint8_t *before) {
    _tile_storeconfig(before); /* oneDNN's, which it may believe to be there */
    _tile_loadconfig(TILES);
}

static inline void tiles_end(const uint8_t *before) { _tile_loadconfig(before); }

/* C (m x n), or what is added to it, is A (m x k words) B (k words x n); m, n and k are multiples of 16. */
static void multiply_amx(const Word *a, int64_t of_a, const Word *b, int64_t of_b, float *c, int64_t of_c, int64_t m,
                         int64_t n, int64_t k, int add) {
    __asm__ volatile("" ::: "memory"); /* GCC's tile loads don't say that they read */
    if (n == 32 && k <= 32) {          /* B stays in tiles */
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
