/* The memory-bound parts of a Llama layer, each in one pass: what torch's operators would write down in between
   stays in registers. A result is rounded to T once. A token never depends on its neighbours nor on the number of
   threads. */

#include "common.h"

/* out = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv:1910.07467); the quotient is rounded before
   it is scaled, as transformers does it. x, out: tokens x d_model; weight: d_model; inverse, the factor of each x:
   tokens. */
void rms_norm_forward(const T *x, const T *weight, T *out, float *inverse, float eps, int64_t tokens, int64_t d_model) {
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        const T *from = x + token * d_model;
        T *to = out + token * d_model;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < d_model; i++) sum += load(from[i]) * load(from[i]);
        float scale = inverse[token] = 1.0f / sqrtf(sum / (float)d_model + eps);
#pragma omp simd
        for (int64_t i = 0; i < d_model; i++) to[i] = narrow(load(narrow(load(from[i]) * scale)) * load(weight[i]));
    }
}

/* grad_x = inverse g w - x inverse^3 mean(g w x), g being grad_out; shapes are those of rms_norm_forward. */
void rms_norm_backward(const T *grad_out, const T *x, const T *weight, const float *inverse, T *grad_x, int64_t tokens,
                       int64_t d_model) {
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        const T *g = grad_out + token * d_model, *from = x + token * d_model;
        T *to = grad_x + token * d_model;
        float along = 0, scale = inverse[token];
#pragma omp simd reduction(+ : along)
        for (int64_t i = 0; i < d_model; i++) along += load(g[i]) * load(weight[i]) * load(from[i]);
        along *= -scale * scale * scale / (float)d_model;
#pragma omp simd
        for (int64_t i = 0; i < d_model; i++)
            to[i] = narrow(load(g[i]) * load(weight[i]) * scale + load(from[i]) * along);
    }
}

/* out (tokens x d_ff) = silu(gate) up (Shazeer 2020, arXiv:2002.05202), from gate and up side by side in both
   (tokens x 2 d_ff). */
void swiglu_forward(const T *both, T *out, int64_t tokens, int64_t d_ff) {
    float most = bound();
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        const T *gate = both + token * 2 * d_ff, *up = gate + d_ff;
        T *to = out + token * d_ff;
#pragma omp simd
        for (int64_t i = 0; i < d_ff; i++) to[i] = narrow(load(gate[i]) * sigmoid(load(gate[i]), most) * load(up[i]));
    }
}

/* grad_both (tokens x 2 d_ff) from grad_out (tokens x d_ff) and both, of which silu is computed again. */
void swiglu_backward(const T *grad_out, const T *both, T *grad_both, int64_t tokens, int64_t d_ff) {
    float most = bound();
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        const T *g = grad_out + token * d_ff, *gate = both + token * 2 * d_ff, *up = gate + d_ff;
        T *grad_gate = grad_both + token * 2 * d_ff, *grad_up = grad_gate + d_ff;
#pragma omp simd
        for (int64_t i = 0; i < d_ff; i++) {
            float z = load(gate[i]), s = sigmoid(z, most), wide = load(g[i]);
            grad_gate[i] = narrow(wide * load(up[i]) * s * (1.0f + z * (1.0f - s)));
            grad_up[i] = narrow(wide * z * s);
        }
    }
}

/* losses (tokens): nats of each label (labels: tokens) by its logits (tokens x vocab_size); if `with_gradient`, the
   logits are overwritten with their gradient. */
void cross_entropy(T *logits, const int64_t *labels, float *losses, int64_t with_gradient, int64_t tokens,
                   int64_t vocab_size) {
    const int64_t part = 1024; /* added up in fp32, the parts in fp64 */
    float most = bound();
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        T *at = logits + token * vocab_size;
        float highest = -INFINITY, own = load(at[labels[token]]);
        double sum = 0;
#pragma omp simd reduction(max : highest)
        for (int64_t i = 0; i < vocab_size; i++) highest = load(at[i]) > highest ? load(at[i]) : highest;
        for (int64_t start = 0; start < vocab_size; start += part) {
            int64_t end = start + part < vocab_size ? start + part : vocab_size;
            float some = 0;
#pragma omp simd reduction(+ : some)
            for (int64_t i = start; i < end; i++) some += exponential(load(at[i]) - highest, most);
            sum += some;
        }
        losses[token] = (float)(log(sum) - ((double)own - highest));
        if (!with_gradient) continue;
        float inverse_sum = (float)(1.0 / sum), rest = exponential(own - highest, most) * inverse_sum - 1.0f;
#pragma omp simd
        for (int64_t i = 0; i < vocab_size; i++) at[i] = narrow(exponential(load(at[i]) - highest, most) * inverse_sum);
        at[labels[token]] = narrow(rest);
    }
}
