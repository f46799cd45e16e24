/* What the two versions of layer.c's inner loops share: layer_amx.h has them by tiles and AVX-512, layer_serial.h in
   plain C. A block's numbers stand in strips: for each 32 columns all rows, 32 numbers a row. Weights stand in
   panels: for each 32 outputs the inputs in pairs, 32 pairs one after another. */

#pragma once

#include "products.h"

#define CHUNK 512 /* inner numbers of a gated unit, and inputs of a long panel, at a time */

/* What is done with a row of a product, of 32 numbers, while the tiles compute the next ones. */
typedef void Finish(const void *work, int64_t row, const float *sums);

/* An address to prefetch. It may lie behind the array that it was made from, where no pointer may. */
static inline uintptr_t address(const T *start, int64_t numbers) {
    return (uintptr_t)start + (uintptr_t)numbers * sizeof(T);
}

/* Where 32 columns of a product go: its first `size` rows. */
typedef struct {
    T *to;
    int64_t stride, size;
} Rows;

typedef struct {
    const float *gate;
    T *factors, *h;
    int64_t size, keep_factors;
} Unit;

typedef struct {
    const T *factors;
    T *grad_gate, *grad_up;
    int64_t size;
} UnitBackward;
