// Linear layers on packed weights. A weight matrix is cut into panels of 32 outputs, [inputs / per_unit][32]
// units of 32 bits each: one float32, two bfloat16 or four uint8. Activations are packed into the same units
// (float32, bfloat16, int8), so one loop serves all formats and each weight is read once, in order.
#pragma once

#include <algorithm>
#include <vector>

#include "threads.h"
#include "vector.h"

enum class Format : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

constexpr int PANEL = 32;
constexpr int PARTS = PANEL / LANES;
constexpr int GROUP = 64;  // int8 activations that share a scale
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 12;  // x 2 parts: 24 of 32 registers hold sums
#else
constexpr int TILE_ROWS = 3;  // x 4 parts: 12 of 16
#endif

struct Linear {
    const uint32_t* panels;
    const float* scale;  // of each output, int8 only
    const float* bias;   // or null
    int32_t inputs, outputs;
};

// Activations ready for `multiply`, `rows` of `units` each.
struct Packed {
    std::vector<uint32_t> data;
    std::vector<float> scale;   // int8: of each group
    std::vector<float> offset;  // int8: what the weights' shift by 128 takes off, of each row
    int units = 0, groups = 0;

    void reserve(int rows, int inputs) {
        data.resize(size_t(rows) * inputs);
        scale.resize(size_t(rows) * (inputs / GROUP + 1));
        offset.resize(rows);
    }
};

struct Float32 {
    static constexpr int per_unit = 1;
    typedef Floats Sums;
    static Sums dot(Sums sums, uint32_t x, Words w) {
        float value;
        std::memcpy(&value, &x, sizeof value);
        return sums + splat(value) * (Floats)w;
    }
};

struct BFloat16 {
    static constexpr int per_unit = 2;
    typedef Floats Sums;
    static Sums dot(Sums sums, uint32_t x, Words w) {
#if defined(__AVX512BF16__)
        return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_set1_epi32(x), (__m512bh)w);
#else
        const uint32_t even = x << 16, odd = x & 0xffff0000;
        float first, second;
        std::memcpy(&first, &even, sizeof first);
        std::memcpy(&second, &odd, sizeof second);
        return sums + splat(first) * (Floats)(w << 16) + splat(second) * (Floats)(w & 0xffff0000);
#endif
    }
};

struct Int8 {
    static constexpr int per_unit = 4;
    typedef Ints Sums;

    // Four signed bytes as two pairs of 16 bits: sums of their products fit 32 bits, where those of bytes saturate.
    struct Pairs {
        uint32_t even, odd;
        explicit Pairs(uint32_t x) : even(pair(x, x >> 16)), odd(pair(x >> 8, x >> 24)) {}
        static uint32_t pair(uint32_t low, uint32_t high) {
            return uint16_t(int8_t(low)) | uint32_t(uint16_t(int8_t(high))) << 16;
        }
    };

    static Sums dot(Sums sums, uint32_t x, Words w) {
#if defined(__AVX512VNNI__)
        return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, _mm512_set1_epi32(x));
#elif defined(__AVX512BW__)
        const Pairs pairs(x);
        sums += (Ints)_mm512_madd_epi16((__m512i)(w & 0x00ff00ff), _mm512_set1_epi32(pairs.even));
        return sums + (Ints)_mm512_madd_epi16((__m512i)(w >> 8 & 0x00ff00ff), _mm512_set1_epi32(pairs.odd));
#elif defined(__AVX2__) && !defined(__AVX512F__)
        const Pairs pairs(x);
        sums += (Ints)_mm256_madd_epi16((__m256i)(w & 0x00ff00ff), _mm256_set1_epi32(pairs.even));
        return sums + (Ints)_mm256_madd_epi16((__m256i)(w >> 8 & 0x00ff00ff), _mm256_set1_epi32(pairs.odd));
#else
        for (int byte = 0; byte < 4; ++byte) {
            sums += (Ints)(w >> (8 * byte) & 0xff) * int32_t(int8_t(x >> (8 * byte)));
        }
        return sums;
#endif
    }
};

inline void pack_row(Float32, const float* x, int inputs, Packed& to, int row) {
    std::memcpy(&to.data[size_t(row) * to.units], x, sizeof(float) * inputs);
}

inline void pack_row(BFloat16, const float* x, int inputs, Packed& to, int row) {
    auto* halves = reinterpret_cast<uint16_t*>(&to.data[size_t(row) * to.units]);
    for (int i = 0; i < inputs; ++i) halves[i] = to_bfloat16(x[i]);
}

inline void pack_row(Int8, const float* x, int, Packed& to, int row) {
    auto* bytes = reinterpret_cast<int8_t*>(&to.data[size_t(row) * to.units]);
    float shifted = 0;
    for (int group = 0; group < to.groups; ++group, x += GROUP, bytes += GROUP) {
        float largest = 1e-10f;
        for (int i = 0; i < GROUP; ++i) largest = std::max(largest, std::fabs(x[i]));
        const float inverse = 127.0f / largest;
        int total = 0;
        for (int i = 0; i < GROUP; ++i) {
            const float scaled = x[i] * inverse;
            const int value = int(scaled + (scaled < 0 ? -0.5f : 0.5f));
            bytes[i] = int8_t(value);
            total += value;
        }
        to.scale[size_t(row) * to.groups + group] = largest / 127.0f;
        shifted += 128.0f * total * (largest / 127.0f);
    }
    to.offset[row] = shifted;
}

// The product of ROWS packed rows with one panel.
template <class F, int ROWS>
void tile(const Linear& linear, const Packed& x, int row, int panel, Floats (*out)[PARTS]) {
    const uint32_t* weights = linear.panels + size_t(panel) * x.units * PANEL;
    const uint32_t* units = &x.data[size_t(row) * x.units];
    for (int r = 0; r < ROWS; ++r) std::fill_n(out[r], PARTS, Floats{});
    const int step = F::per_unit == 4 ? GROUP / 4 : x.units;
    for (int start = 0, group = 0; start < x.units; start += step, ++group) {
        typename F::Sums sums[ROWS][PARTS] = {};
        for (int unit = start; unit < start + step; ++unit, weights += PANEL) {
            // With many registers an activation is broadcast once for all parts; with few, a weight is loaded
            // once for all rows.
            if constexpr (PARTS == 2) {
                const Words first = load_as<Words>(weights), second = load_as<Words>(weights + LANES);
                for (int r = 0; r < ROWS; ++r) {
                    const uint32_t value = units[size_t(r) * x.units + unit];
                    sums[r][0] = F::dot(sums[r][0], value, first);
                    sums[r][1] = F::dot(sums[r][1], value, second);
                }
            } else {
                for (int part = 0; part < PARTS; ++part) {
                    const Words w = load_as<Words>(weights + part * LANES);
                    for (int r = 0; r < ROWS; ++r) {
                        sums[r][part] = F::dot(sums[r][part], units[size_t(r) * x.units + unit], w);
                    }
                }
            }
        }
        for (int r = 0; r < ROWS; ++r) {
            for (int part = 0; part < PARTS; ++part) {
                if constexpr (F::per_unit == 4) {
                    const size_t at = size_t(row + r) * x.groups + group;
                    out[r][part] += __builtin_convertvector(sums[r][part], Floats) * x.scale[at];
                } else {
                    out[r][part] = sums[r][part];
                }
            }
        }
    }
}

template <class F, int ROWS = TILE_ROWS>
void tile(int rows, const Linear& linear, const Packed& x, int row, int panel, Floats (*out)[PARTS]) {
    if (rows == ROWS) {
        tile<F, ROWS>(linear, x, row, panel, out);
    } else if constexpr (ROWS > 1) {
        tile<F, ROWS - 1>(rows, linear, x, row, panel, out);
    }
}

// What becomes of a panel's sums: scaled, bias and the old value added.
template <class F>
struct Epilogue {
    Floats scale[PARTS], bias[PARTS] = {};
    int width;

    Epilogue(const Linear& linear, int column) : width(std::min(PANEL, linear.outputs - column)) {
        std::fill_n(scale, PARTS, splat(1));
        if (F::per_unit == 4) std::memcpy(scale, linear.scale + column, sizeof(float) * width);
        if (linear.bias) std::memcpy(bias, linear.bias + column, sizeof(float) * width);
    }

    void operator()(const Floats (&sums)[PARTS], float offset, float* to, bool add) const {
        Floats old[PARTS] = {};
        if (add) std::memcpy(old, to, sizeof(float) * width);
        Floats result[PARTS];
        for (int part = 0; part < PARTS; ++part) {
            const Floats sum = F::per_unit == 4 ? (sums[part] - offset) * scale[part] : sums[part];
            result[part] = sum + bias[part] + old[part];
        }
        if (width == PANEL) {
            std::memcpy(to, result, sizeof result);
        } else {
            std::memcpy(to, result, sizeof(float) * width);
        }
    }
};

// y [rows, outputs] = x W^T + bias, or with `add` y += it.
template <class F>
void multiply(ThreadPool& pool, const Linear& linear, const Packed& x, int rows, float* y, bool add) {
    const int panels = (linear.outputs + PANEL - 1) / PANEL;
    const int together = std::max(1, panels / (pool.size() * 16));
    const int blocks = (rows + TILE_ROWS - 1) / TILE_ROWS;
    pool.run((panels + together - 1) / together, [&](int task, int) {
        Floats sums[TILE_ROWS][PARTS];
        for (int panel = task * together; panel < std::min(panels, (task + 1) * together); ++panel) {
            const int column = panel * PANEL;
            const Epilogue<F> finish(linear, column);
            for (int block = 0; block < blocks; ++block) {
                const int row = rows * block / blocks, count = rows * (block + 1) / blocks - row;
                tile<F>(count, linear, x, row, panel, sums);
                for (int r = 0; r < count; ++r) {
                    finish(sums[r], x.offset[row + r], y + size_t(row + r) * linear.outputs + column, add);
                }
            }
        }
    });
}
