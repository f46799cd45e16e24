/* The memory-bound sums of a Llama layer, each in one pass: what torch's operators would write down in between stays in
   registers. T is float, or bf16 as its 16 bits; arithmetic is fp32, and a result is rounded to T once. A row never
   depends on its neighbours nor on the number of threads. compiler.py compiles this file on the machine that runs
   it, once for each T. */

#include "native.h"

/* x / sqrt(mean(x^2) + eps) * weight; the quotient is rounded before it is scaled, as transformers does it. */
void norm_forward(const T *x, const T *weight, T *out, float *inverse, float eps, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *from = x + row * width;
        T *to = out + row * width;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; i++) sum += load(from[i]) * load(from[i]);
        float scale = inverse[row] = 1.0f / sqrtf(sum / (float)width + eps);
#pragma omp simd
        for (int64_t i = 0; i < width; i++) to[i] = narrow(load(narrow(load(from[i]) * scale)) * load(weight[i]));
    }
}

/* inverse g w - x inverse^3 mean(g w x) */
void norm_backward(const T *given, const T *x, const T *weight, const float *inverse, T *of_x, int64_t rows,
                   int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *g = given + row * width, *from = x + row * width;
        T *to = of_x + row * width;
        float along = 0, scale = inverse[row];
#pragma omp simd reduction(+ : along)
        for (int64_t i = 0; i < width; i++) along += load(g[i]) * load(weight[i]) * load(from[i]);
        along *= -scale * scale * scale / (float)width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            to[i] = narrow(load(g[i]) * load(weight[i]) * scale + load(from[i]) * along);
    }
}

/* silu(gate) up, from gate and up side by side */
void gate_forward(const T *both, T *out, int64_t rows, int64_t inner) {
    float most = bound();
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *gate = both + row * 2 * inner, *up = gate + inner;
        T *to = out + row * inner;
#pragma omp simd
        for (int64_t i = 0; i < inner; i++) to[i] = narrow(load(gate[i]) * sigmoid(load(gate[i]), most) * load(up[i]));
    }
}

void gate_backward(const T *given, const T *both, T *of_both, int64_t rows, int64_t inner) {
    float most = bound();
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *g = given + row * inner, *gate = both + row * 2 * inner, *up = gate + inner;
        T *of_gate = of_both + row * 2 * inner, *of_up = of_gate + inner;
#pragma omp simd
        for (int64_t i = 0; i < inner; i++) {
            float z = load(gate[i]), s = sigmoid(z, most), wide = load(g[i]);
            of_gate[i] = narrow(wide * load(up[i]) * s * (1.0f + z * (1.0f - s)));
            of_up[i] = narrow(wide * z * s);
        }
    }
}

/* Nats of each row's label by its logits; where `needed`, the logits' gradient in their place. */
void cross_entropy(T *logits, const int64_t *labels, float *losses, int64_t needed, int64_t rows, int64_t vocabulary) {
    const int64_t part = 1024; /* added up in fp32, the parts in fp64 */
    float most = bound();
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        T *at = logits + row * vocabulary;
        float highest = -INFINITY, own = load(at[labels[row]]);
        double sum = 0;
#pragma omp simd reduction(max : highest)
        for (int64_t i = 0; i < vocabulary; i++) highest = load(at[i]) > highest ? load(at[i]) : highest;
        for (int64_t start = 0; start < vocabulary; start += part) {
            int64_t end = start + part < vocabulary ? start + part : vocabulary;
            float some = 0;
#pragma omp simd reduction(+ : some)
            for (int64_t i = start; i < end; i++) some += exponential(load(at[i]) - highest, most);
            sum += some;
        }
        losses[row] = (float)(log(sum) - ((double)own - highest));
        if (!needed) continue;
        float share = (float)(1.0 / sum), rest = exponential(own - highest, most) * share - 1.0f;
#pragma omp simd
        for (int64_t i = 0; i < vocabulary; i++) at[i] = narrow(exponential(load(at[i]) - highest, most) * share);
        at[labels[row]] = narrow(rest);
    }
}
