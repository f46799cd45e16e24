/* AMX and AVX-512's bf16 instructions in plain C, put before kernels.c: with it the code for processors that have them
   compiles and runs on any processor with AVX-512. Sums are in another order than the processor's: results are close to
   its own, not equal. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define __AVX512BF16__ 1
#define __AMX_BF16__ 1

static inline uint16_t emulated_round(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* not a number */
    if (!(bits & 0x7f800000)) return (uint16_t)(bits >> 16 & 0x8000);           /* denormal: 0 */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float emulated_widen(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

static inline __m256bh emulated_cvtneps(__m512 x) {
    float from[16];
    uint16_t to[16];
    __m256bh found;
    memcpy(from, &x, 64);
    for (int i = 0; i < 16; i++) to[i] = emulated_round(from[i]);
    memcpy(&found, to, 32);
    return found;
}

static inline __m512bh emulated_cvtne2ps(__m512 high, __m512 low) {
    float from[32];
    uint16_t to[32];
    __m512bh found;
    memcpy(from, &low, 64);
    memcpy(from + 16, &high, 64);
    for (int i = 0; i < 32; i++) to[i] = emulated_round(from[i]);
    memcpy(&found, to, 64);
    return found;
}

static __thread uint16_t emulated_tiles[8][16][32];
static __thread float emulated_sums[8][16][16];

static inline void emulated_load(int tile, const void *from, int64_t stride) {
    for (int r = 0; r < 16; r++) {
        memcpy(emulated_tiles[tile][r], (const char *)from + r * stride, 64);
        memcpy(emulated_sums[tile][r], (const char *)from + r * stride, 64);
    }
}

static inline void emulated_store(int tile, void *to, int64_t stride) {
    for (int r = 0; r < 16; r++) memcpy((char *)to + r * stride, emulated_sums[tile][r], 64);
}

static inline void emulated_zero(int tile) { memset(emulated_sums[tile], 0, sizeof(emulated_sums[tile])); }

/* sums (16 x 16) += a (16 x 32) b (32 x 16, two rows interleaved) */
static inline void emulated_product(int sums, int a, int b) {
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 32; k++)
            for (int n = 0; n < 16; n++)
                emulated_sums[sums][m][n] +=
                    emulated_widen(emulated_tiles[a][m][k]) * emulated_widen(emulated_tiles[b][k / 2][2 * n + k % 2]);
}

#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_loadconfig
#undef _tile_storeconfig
#define _tile_loadd emulated_load
#define _tile_stream_loadd emulated_load
#define _tile_stored emulated_store
#define _tile_zero emulated_zero
#define _tile_dpbf16ps emulated_product
#define _tile_loadconfig(config) (void)(config)
#define _tile_storeconfig(config) (void)(config)
#define _mm512_cvtneps_pbh emulated_cvtneps
#define _mm512_cvtne2ps_pbh emulated_cvtne2ps
#define syscall(...) 0 /* the system gives the tiles */
