/* The memory-bound sums of a Llama layer, each in one pass: what torch's operators would write down in between stays in
   registers. T is float, or bf16 as its 16 bits; arithmetic is fp32, and a result is rounded to T once. A row never
   depends on its neighbours nor on the number of threads. native.py compiles this file on the machine that runs it,
   once for each T. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__clang__) || !defined(_OPENMP)
#error "expected GCC with OpenMP: the threads must be those of torch, which brings GCC's runtime"
#endif

static inline float of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

#ifdef BF16
typedef uint16_t T;

static inline float load(T x) { return of_bits((uint32_t)x << 16); }

/* To the nearest, ties to even. The NaN of a processor's own making stays one. */
static inline T narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (T)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#else
typedef float T;

static inline float load(T x) { return x; }

static inline T narrow(float x) { return x; }
#endif

/* e^x by 2^n times a polynomial, within 2 units of the last place (Moshier's Cephes, expf); from -87 to 88 */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* the nearest whole number */
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * of_bits((uint32_t)((int32_t)n + 127) << 23);
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

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
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *gate = both + row * 2 * inner, *up = gate + inner;
        T *to = out + row * inner;
#pragma omp simd
        for (int64_t i = 0; i < inner; i++) to[i] = narrow(load(gate[i]) * sigmoid(load(gate[i])) * load(up[i]));
    }
}

void gate_backward(const T *given, const T *both, T *of_both, int64_t rows, int64_t inner) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *g = given + row * inner, *gate = both + row * 2 * inner, *up = gate + inner;
        T *of_gate = of_both + row * 2 * inner, *of_up = of_gate + inner;
#pragma omp simd
        for (int64_t i = 0; i < inner; i++) {
            float z = load(gate[i]), s = sigmoid(z), wide = load(g[i]);
            of_gate[i] = narrow(wide * load(up[i]) * s * (1.0f + z * (1.0f - s)));
            of_up[i] = narrow(wide * z * s);
        }
    }
}

/* Rotary positions with halves paired; `sign` -1 turns back. */
static inline void turn(const T *from, const T *cos, const T *sin, float sign, T *to, int64_t width) {
    int64_t half = width / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float a = load(from[i]), b = load(from[i + half]);
        to[i] = narrow(a * load(cos[i]) - sign * b * load(sin[i]));
        to[i + half] = narrow(b * load(cos[i + half]) + sign * a * load(sin[i + half]));
    }
}

/* A head of a token in a tensor of blocks, each heads x its tokens x width: by where its block starts, and its size. */
static inline T *place(T *blocks, int64_t token, int64_t start, int64_t size, int64_t head, int64_t heads,
                       int64_t width) {
    return blocks + (heads * start + head * size + token - start) * width;
}

/* Queries, keys and values side by side in rows to turned queries and keys, and values, in blocks; or back. */
void turn_rows(T *rows, const T *cos, const T *sin, T *query, T *key, T *value, const int32_t *starts,
               const int32_t *sizes, const int32_t *documents, const int32_t *lengths, int64_t tokens, int64_t heads,
               int64_t kept, int64_t width, int64_t back) {
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        T *row = rows + token * (heads + 2 * kept) * width;
        const T *c = cos + token * width, *s = sin + token * width;
        int64_t start = documents[token], size = lengths[token];
        for (int64_t head = 0; head < heads + 2 * kept; head++, row += width) {
            int64_t own = head < heads ? head : head < heads + kept ? head - heads : head - heads - kept;
            T *to = head < heads ? place(query, token, starts[token], sizes[token], own, heads, width)
                                 : place(head < heads + kept ? key : value, token, start, size, own, kept, width);
            if (head >= heads + kept)
                memcpy(back ? row : to, back ? to : row, width * sizeof(T));
            else
                turn(back ? to : row, c, s, back ? -1.0f : 1.0f, back ? row : to, width);
        }
    }
}

/* Rows of heads to blocks, or back. */
void move_rows(T *rows, T *blocks, const int32_t *starts, const int32_t *sizes, int64_t tokens, int64_t heads,
               int64_t width, int64_t back) {
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t head = 0; head < heads; head++) {
            T *row = rows + (token * heads + head) * width;
            T *to = place(blocks, token, starts[token], sizes[token], head, heads, width);
            memcpy(back ? row : to, back ? to : row, width * sizeof(T));
        }
}

/* Softmax in place of the scaled scores of queries start, start + 1, ..., `size` a head; what comes later is 0. */
void softmax_forward(T *scores, float scaling, int64_t rows, int64_t columns, int64_t size, int64_t start) {
#pragma omp parallel
    {
        float *kept = malloc(columns * sizeof(float));
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            T *at = scores + row * columns;
            int64_t seen = start + row % size + 1;
            float highest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : highest)
            for (int64_t i = 0; i < seen; i++) highest = load(at[i]) > highest ? load(at[i]) : highest;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < seen; i++) sum += kept[i] = exponential((load(at[i]) - highest) * scaling);
            float share = 1.0f / sum;
#pragma omp simd
            for (int64_t i = 0; i < seen; i++) at[i] = narrow(kept[i] * share);
            memset(at + seen, 0, (columns - seen) * sizeof(T));
        }
        free(kept);
    }
}

/* p (g - sum(p g)) scaling in the place of g */
void softmax_backward(const T *weights, T *given, float scaling, int64_t rows, int64_t columns, int64_t size,
                      int64_t start) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *p = weights + row * columns;
        T *g = given + row * columns;
        int64_t seen = start + row % size + 1;
        float along = 0;
#pragma omp simd reduction(+ : along)
        for (int64_t i = 0; i < seen; i++) along += load(p[i]) * load(g[i]);
#pragma omp simd
        for (int64_t i = 0; i < seen; i++) g[i] = narrow(load(p[i]) * (load(g[i]) - along) * scaling);
        memset(g + seen, 0, (columns - seen) * sizeof(T));
    }
}

/* One new token for each of `count` rows of the cache: its key and value go to place `at`, and it sees its row so far. */
void step(const T *rows, const T *cos, const T *sin, T *keys, T *values, const int64_t *at, T *out, float scaling,
          int64_t count, int64_t heads, int64_t kept, int64_t width, int64_t capacity) {
    int64_t group = heads / kept;
#pragma omp parallel
    {
        float *query = malloc(group * (2 * width + capacity) * sizeof(float));
        float *sums = query + group * width, *scores = sums + group * width;
        T *turned = malloc(width * sizeof(T));
#pragma omp for schedule(static)
        for (int64_t job = 0; job < count * kept; job++) {
            int64_t row = job / kept, head = job % kept, last = at[row];
            const T *own = rows + row * (heads + 2 * kept) * width, *c = cos + row * width, *s = sin + row * width;
            T *key = keys + job * capacity * width, *value = values + job * capacity * width;
            turn(own + (heads + head) * width, c, s, 1.0f, key + last * width, width);
            memcpy(value + last * width, own + (heads + kept + head) * width, width * sizeof(T));
            for (int64_t g = 0; g < group; g++) {
                turn(own + (head * group + g) * width, c, s, 1.0f, turned, width);
                for (int64_t i = 0; i < width; i++) query[g * width + i] = load(turned[i]) * scaling;
            }
            for (int64_t j = 0; j <= last; j++)
                for (int64_t g = 0; g < group; g++) {
                    float sum = 0;
#pragma omp simd reduction(+ : sum)
                    for (int64_t i = 0; i < width; i++) sum += query[g * width + i] * load(key[j * width + i]);
                    scores[g * capacity + j] = sum;
                }
            for (int64_t g = 0; g < group; g++) {
                float *score = scores + g * capacity, highest = score[0], sum = 0;
#pragma omp simd reduction(max : highest)
                for (int64_t j = 0; j <= last; j++) highest = score[j] > highest ? score[j] : highest;
#pragma omp simd reduction(+ : sum)
                for (int64_t j = 0; j <= last; j++) sum += score[j] = exponential(score[j] - highest);
                float share = 1.0f / sum;
#pragma omp simd
                for (int64_t j = 0; j <= last; j++) score[j] *= share;
            }
            memset(sums, 0, group * width * sizeof(float));
            int64_t j = 0;
            for (; j + 4 <= last + 1; j += 4) /* four values a pass over the sums */
                for (int64_t g = 0; g < group; g++) {
                    const float *w = scores + g * capacity + j;
                    const T *v = value + j * width;
#pragma omp simd
                    for (int64_t i = 0; i < width; i++)
                        sums[g * width + i] += w[0] * load(v[i]) + w[1] * load(v[width + i]) +
                                               w[2] * load(v[2 * width + i]) + w[3] * load(v[3 * width + i]);
                }
            for (; j <= last; j++)
                for (int64_t g = 0; g < group; g++) {
                    float weight = scores[g * capacity + j];
#pragma omp simd
                    for (int64_t i = 0; i < width; i++) sums[g * width + i] += weight * load(value[j * width + i]);
                }
            for (int64_t i = 0; i < group * width; i++) out[job * group * width + i] = narrow(sums[i]);
        }
        free(query);
        free(turned);
    }
}

/* Nats of each row's label by its logits; where `needed`, the logits' gradient in their place. */
void cross_entropy(T *logits, const int64_t *labels, float *losses, int64_t needed, int64_t rows, int64_t vocabulary) {
    const int64_t part = 1024; /* added up in fp32, the parts in fp64 */
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
            for (int64_t i = start; i < end; i++) some += exponential(load(at[i]) - highest);
            sum += some;
        }
        losses[row] = (float)(log(sum) - ((double)own - highest));
        if (!needed) continue;
        float share = (float)(1.0 / sum), rest = exponential(own - highest) * share - 1.0f;
#pragma omp simd
        for (int64_t i = 0; i < vocabulary; i++) at[i] = narrow(exponential(load(at[i]) - highest) * share);
        at[labels[row]] = narrow(rest);
    }
}
