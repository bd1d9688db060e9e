// As many 32-bit lanes as one register has, by the compiler's vector extensions: sixteen with AVX-512, else eight
// (AVX2; NEON takes two registers). Wider than a register, GCC would keep them in memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

template <class V>
inline V load_as(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Floats splat(float value) { return value - Floats{}; }

inline Floats load(const float* from) { return load_as<Floats>(from); }

// bfloat16 is the upper half of a float.
inline Floats load(const uint16_t* from) {
    return (Floats)(__builtin_convertvector(load_as<Halves>(from), Words) << 16);
}

inline void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

inline uint16_t to_bfloat16(float value) {  // round to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline void put(float* to, float value) { *to = value; }
inline void put(uint16_t* to, float value) { *to = to_bfloat16(value); }

inline float sum(Floats value) {
    float total = 0;
    for (int lane = 0; lane < LANES; ++lane) total += value[lane];
    return total;
}

// e^x to 1e-7 relative: 2^n for the integer part, a polynomial (Cephes) for the rest.
inline Floats exponential(Floats x) {
    x = x < -87.0f ? splat(-87.0f) : x;
    x = x > 88.0f ? splat(88.0f) : x;
    Floats scaled = x * 1.44269504f;
    Ints whole = __builtin_convertvector(scaled + (scaled < 0.0f ? splat(-0.5f) : splat(0.5f)), Ints);
    Floats n = __builtin_convertvector(whole, Floats);
    Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (Floats)((whole + 127) << 23);
}
