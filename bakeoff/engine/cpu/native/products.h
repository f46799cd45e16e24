/* Products of small matrices, by tiles, bf16 dot products or plain vectors: what attention and decoding share. They
   take A row after row and B with PAIR rows interleaved, as the processor's instructions want them: a Word is so many
   numbers along the inner dimension, two bf16 or one float. Sums are fp32. */

#pragma once

#include "common.h"

#ifdef AMX
#include "multiply_amx.h"
#define multiply multiply_amx
#define HAS_TILES 1
#else
#include "multiply_vector.h"
#define multiply multiply_vector
#define HAS_TILES 0
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

/* Prefetches `size` numbers that are read a block later, from number `first` of `rows` on: an address that may lie
   behind them, where no pointer may. */
static inline void prefetch(const T *rows, int64_t first, int64_t size) {
    uintptr_t address = (uintptr_t)rows + (uintptr_t)first * sizeof(T);
    for (int64_t i = 0; i < size; i += 64 / (int64_t)sizeof(T), address += 64)
        __builtin_prefetch((const void *)address, 0, 2);
}

/* `size` tokens of a head of a document from token `start` on: to size x full from rows of `stride` numbers.
   head_dim of `full` numbers are the head's own, with rotary positions if there is `cos` (tokens x head_dim); the
   others, and what is past the document's `length`, are 0. */
static void gather(const T *rows, int64_t stride, const T *cos, const T *sin, T *to, int64_t start, int64_t size,
                   int64_t length, int64_t head_dim, int64_t full) {
    for (int64_t token = start; token < start + size; token++, to += full) {
        int64_t own = token < length ? head_dim : 0;
        prefetch(rows, (token + 32) * stride, head_dim);
        if (own && cos)
            rope(rows + token * stride, cos + token * head_dim, sin + token * head_dim, to, head_dim);
        else if (own)
            copy_row(rows + token * stride, to, head_dim);
        memset(to + own, 0, (full - own) * sizeof(T));
    }
}
