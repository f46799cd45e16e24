/* The product of small matrices by GCC's vectors, for every processor, or by AVX-512's bf16 dot products. */

#pragma once

#ifdef __AVX512F__
#define ROWS 8 /* that are computed together */
#else
#define ROWS 4
#endif

static inline int tiles_allowed(void) { return 1; }

static inline void tiles_begin(uint8_t *before) { (void)before; }

static inline void tiles_end(const uint8_t *before) { (void)before; }

/* The sum plus a b: the words are floats, or pairs of bf16. */
static inline Floats add_product_fp32(Floats sum, Words a, Words b) { return sum + (Floats)a * (Floats)b; }

static inline Floats add_product_bf16(Floats sum, Words a, Words b) {
    sum += (Floats)(a << 16) * (Floats)(b << 16);
    return sum + (Floats)(a & 0xffff0000) * (Floats)(b & 0xffff0000);
}

#if !defined(BF16)
#define add_product add_product_fp32
#elif !defined(AVX512BF16)
#define add_product add_product_bf16
#else
static inline Floats add_product_avx512bf16(Floats sum, Words a, Words b) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#define add_product add_product_avx512bf16
#endif

/* C (m x n), or what is added to it, is A (m x k words) B (k words x n); m, n and k are multiples of 16. */
static void multiply_vector(const Word *a, int64_t of_a, const Word *b, int64_t of_b, float *c, int64_t of_c, int64_t m,
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
                        sum[r][v] = add_product(sum[r][v], same, *(const Words *)(b + p * of_b + j + v * LANES));
                }
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < 16 / LANES; v++) *(Floats *)(c + (i + r) * of_c + j + v * LANES) = sum[r][v];
        }
}
