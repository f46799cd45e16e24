/* All functions that Python calls, declared once: native.py reads the types of their arguments from here. Their shapes
   stand at their definitions. T is float, or bf16 as its 16 bits; int64_t and float arguments are numbers. */

#pragma once

#include <stdint.h>

/* rowwise.c */
void rms_norm_forward(const T *x, const T *weight, T *out, float *inverse, float eps, int64_t tokens, int64_t d_model);
void rms_norm_backward(const T *grad_out, const T *x, const T *weight, const float *inverse, T *grad_x, int64_t tokens,
                       int64_t d_model);
void swiglu_forward(const T *both, T *out, int64_t tokens, int64_t d_ff);
void swiglu_backward(const T *grad_out, const T *both, T *grad_both, int64_t tokens, int64_t d_ff);
void cross_entropy(T *logits, const int64_t *labels, float *losses, int64_t with_gradient, int64_t tokens,
                   int64_t vocab_size);

/* attention.c */
void attention_forward(const T *rows, const T *cos, const T *sin, T *out, float *logsumexp, const int64_t *offsets,
                       T *keys, T *values, const int64_t *cache_rows, int64_t capacity, float scaling,
                       int64_t documents, int64_t longest, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim,
                       int64_t by_head);
void attention_backward(const T *rows, const T *cos, const T *sin, const T *out, const T *grad_out,
                        const float *logsumexp, T *grad_rows, const int64_t *offsets, float scaling, int64_t documents,
                        int64_t longest, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim, int64_t by_head);

/* decoding.c */
typedef struct Layer Layer;
typedef struct Scales Scales;
int able(void);
void attention_step(const T *rows, const T *cos, const T *sin, T *keys, T *values, const int64_t *positions, T *out,
                    float scaling, int64_t count, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim,
                    int64_t capacity);
void packed_linear(const T *x, const T *weight, T *out, int64_t rows, int64_t d_in, int64_t d_out, int64_t add);
void decoder_step(const Layer *layer, const Scales *scales, T **cache, T *x, const T *cos, const T *sin,
                  const int64_t *positions, int64_t layers, int64_t count, int64_t d_model, int64_t head_dim,
                  int64_t capacity);

/* layer.c; but for the first two, in bf16 only */
int tiles(void);
int layers(void);
void lay(const T *weight, T *panels, int64_t outputs, int64_t inputs, int64_t room);
void lay_transposed(const T *weight, T *panels, int64_t outputs, int64_t inputs, int64_t room);
void place(const float *from, T *panels, float scaling, int64_t rows, int64_t columns, int64_t of_row,
           int64_t of_column, int64_t inputs, int64_t row, int64_t column);
void turned(const float *from, float *to, float scaling, int64_t rows, int64_t columns, int64_t stride);
void enter(const T *x, const T *weight, const T *panels, const T *down, T *thin, float *inverse, T *out, float eps,
           int64_t tokens, int64_t width, int64_t outputs, int64_t part, int64_t ranks);
void enter_backward(const T *given, const T *beside, const T *x, const T *weight, const float *inverse, const T *panels,
                    const T *up, const T *thin, float *of_thin, T *of_x, int64_t tokens, int64_t width, int64_t outputs,
                    int64_t part, int64_t ranks, int64_t wanted);
void rest(const T *x, const T *seen, const T *o, const T *weight, const T *gate_up, const T *down, T *middle,
          float *inverse, T *both, T *out, float eps, int64_t tokens, int64_t wide, int64_t part, int64_t width,
          int64_t inner, int64_t keep);
void rest_backward(const T *given, const T *o, const T *weight, const T *gate_up, const T *down, const T *middle,
                   const float *inverse, const T *both, T *of_x, T *of_seen, int64_t tokens, int64_t wide, int64_t part,
                   int64_t width, int64_t inner);
void head(const T *x, const T *weight, T *out, int64_t rows, int64_t width, int64_t outputs);
void head_backward(const T *given, const T *weight, T *of_x, int64_t rows, int64_t width, int64_t outputs);
