// Attention of single queries over a sequence's own keys and values. A sequence of `capacity` tokens (a multiple
// of 16) keeps, per layer and key/value head, keys as [capacity / LANES][head_dim][LANES] and values as
// [capacity][head_dim]: scores of LANES tokens come out side by side, and both are read in order.
#pragma once

#include <algorithm>

#include "vector.h"

// Writes a token's key and value, [head_dim] each, at its place.
template <class T>
void remember(T* keys, T* values, int position, const float* key, const float* value, int head_dim) {
    T* block = keys + size_t(position / LANES) * head_dim * LANES + position % LANES;
    T* row = values + size_t(position) * head_dim;
    for (int d = 0; d < head_dim; ++d) {
        put(block + size_t(d) * LANES, key[d]);
        put(row + d, value[d]);
    }
}

// Turns scores [tokens] into probabilities; those before `first` are masked out.
inline void softmax(float* scores, int first, int tokens) {
    const int begin = first / LANES * LANES, end = (tokens + LANES - 1) / LANES * LANES;
    std::fill(scores + begin, scores + first, -1e30f);
    std::fill(scores + tokens, scores + end, -1e30f);
    float largest = -1e30f;
    for (int t = first; t < tokens; ++t) largest = std::max(largest, scores[t]);
    Floats total{};
    for (int t = begin; t < end; t += LANES) {
        const Floats weights = exponential(load(scores + t) - largest);
        store(scores + t, weights);
        total += weights;
    }
    const float inverse = 1.0f / sum(total);
    for (int t = begin; t < end; t += LANES) store(scores + t, load(scores + t) * inverse);
}

// HEADS query heads of one key/value head over the tokens [first, tokens).
//   queries, out: [HEADS][head_dim]; scores: room for [HEADS][stride]
template <class T, int HEADS>
void attend(const float* queries, const T* keys, const T* values, int first, int tokens, int head_dim,
            float scale, float* scores, int stride, float* out) {
    const int begin = first / LANES * LANES;
    for (int t = begin; t < tokens; t += LANES) {
        const T* block = keys + size_t(t) * head_dim;
        Floats sums[HEADS] = {};
        for (int d = 0; d < head_dim; ++d) {
            const Floats key = load(block + size_t(d) * LANES);
            for (int h = 0; h < HEADS; ++h) sums[h] += queries[h * head_dim + d] * key;
        }
        for (int h = 0; h < HEADS; ++h) store(scores + size_t(h) * stride + t, sums[h] * scale);
    }
    for (int h = 0; h < HEADS; ++h) softmax(scores + size_t(h) * stride, first, tokens);
    for (int d = 0; d < head_dim; d += LANES) {
        Floats sums[HEADS] = {};
        for (int t = first; t < tokens; ++t) {
            const Floats value = load(values + size_t(t) * head_dim + d);
            for (int h = 0; h < HEADS; ++h) sums[h] += scores[size_t(h) * stride + t] * value;
        }
        for (int h = 0; h < HEADS; ++h) store(out + h * head_dim + d, sums[h]);
    }
}

// The same for any number of heads, four at a time.
template <class T>
void attend(int heads, const float* queries, const T* keys, const T* values, int first, int tokens, int head_dim,
            float scale, float* scores, int stride, float* out) {
    for (; heads > 0; heads -= 4, queries += 4 * head_dim, out += 4 * head_dim) {
        const auto part = heads >= 4   ? attend<T, 4>
                          : heads == 3 ? attend<T, 3>
                          : heads == 2 ? attend<T, 2>
                                       : attend<T, 1>;
        part(queries, keys, values, first, tokens, head_dim, scale, scores, stride, out);
    }
}
