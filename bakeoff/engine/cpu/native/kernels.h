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
void pack(const T *weight, T *packed, int64_t d_out, int64_t d_in, int64_t room);
void pack_transposed(const T *weight, T *packed, int64_t d_out, int64_t d_in, int64_t room);
void pack_lora(const float *from, T *packed, float scaling, int64_t rows, int64_t columns, int64_t row_stride,
               int64_t column_stride, int64_t d_in, int64_t row, int64_t column);
void transpose_scaled(const float *from, float *to, float scaling, int64_t rows, int64_t columns, int64_t stride);
void pre_attention_forward(const T *x, const T *weight, const T *packed, const T *lora_A, T *lora_inner, float *inverse,
                           T *out, float eps, int64_t tokens, int64_t d_model, int64_t d_out, int64_t head_dim,
                           int64_t rank);
void pre_attention_backward(const T *grad_out, const T *grad_residual, const T *x, const T *weight,
                            const float *inverse, const T *packed, const T *lora_B, const T *lora_inner,
                            float *grad_lora, T *grad_x, int64_t tokens, int64_t d_model, int64_t d_out,
                            int64_t head_dim, int64_t rank, int64_t need_grad_x);
void post_attention_forward(const T *x, const T *heads_out, const T *o, const T *weight, const T *gate_up,
                            const T *down, T *residual, float *inverse, T *factors, T *out, float eps, int64_t tokens,
                            int64_t d_heads, int64_t head_dim, int64_t d_model, int64_t d_ff, int64_t keep_factors);
void post_attention_backward(const T *grad_out, const T *o, const T *weight, const T *gate_up, const T *down,
                             const T *residual, const float *inverse, const T *factors, T *grad_x, T *grad_heads_out,
                             int64_t tokens, int64_t d_heads, int64_t head_dim, int64_t d_model, int64_t d_ff);
void head_forward(const T *x, const T *weight, T *out, int64_t rows, int64_t d_model, int64_t vocab_size);
void head_backward(const T *grad_out, const T *weight, T *grad_x, int64_t rows, int64_t d_model, int64_t vocab_size);
