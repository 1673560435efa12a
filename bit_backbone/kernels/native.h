// What the CPU kernels share: numbers of 16 and 8 bits, and the arithmetic of a norm.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr long BLOCK = 64;  // pixels whose sums are taken in float32

struct bfloat16 {
  uint16_t bits;
};

inline float widen(float value) { return value; }

inline float widen(bfloat16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}

template <typename T>
inline T narrow(float value);

template <>
inline float narrow<float>(float value) {
  return value;
}

template <>
inline bfloat16 narrow<bfloat16>(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  // to nearest, ties to even; the upper half of a NaN might be an infinity's
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return {uint16_t(value != value ? 0x7fc0 : rounded)};
}

template <bool RELU>
inline float activate(float value) {
  return RELU && value < 0.0f ? 0.0f : value;  // NaN stays NaN
}

// A value of a channel becomes (value - centre) * scale + shift. Multiplying first would lose digits
// where the mean is large.
struct Affine {
  float centre, scale, shift;
};

// The result is divided by `step`.
Affine affine(double mean, double rstd, float weight, float bias, float step) {
  float centre = float(mean);
  double shift = bias - (mean - centre) * rstd * weight;
  return {centre, float(weight * rstd / step), float(shift / step)};
}

// To the nearest of 256 levels; what is no number becomes 0.
template <>
inline uint8_t narrow<uint8_t>(float value) {
  float bounded = value > 0.0f ? (value < 255.0f ? value : 255.0f) : 0.0f;
  return uint8_t(int(bounded + 0.5f));
}

inline long begin_of(long total, long parts, long part) { return total * part / parts; }

struct Sums {
  double *first, *second;  // of differences to an origin, and of their squares
};

// Channels-last: adds up differences of `pixels` rows of `channels` values to `origin`.
template <typename T>
void add_rows(const T* x, long pixels, long channels, const float* origin, float* s, float* q, Sums sums) {
  for (long start = 0; start < pixels; start += BLOCK) {
    long stop = start + BLOCK < pixels ? start + BLOCK : pixels;
    memset(s, 0, channels * sizeof(float));
    memset(q, 0, channels * sizeof(float));
    long p = start;
    for (; p + 4 <= stop; p += 4) {  // four rows for each load and store of a sum
      const T *a = x + p * channels, *b = a + channels, *c = b + channels, *d = c + channels;
#pragma omp simd
      for (long i = 0; i < channels; i++) {
        float o = origin[i];
        float e = widen(a[i]) - o, f = widen(b[i]) - o, g = widen(c[i]) - o, h = widen(d[i]) - o;
        s[i] += (e + f) + (g + h);
        q[i] += (e * e + f * f) + (g * g + h * h);
      }
    }
    for (; p < stop; p++) {
      const T* a = x + p * channels;
#pragma omp simd
      for (long i = 0; i < channels; i++) {
        float e = widen(a[i]) - origin[i];
        s[i] += e;
        q[i] += e * e;
      }
    }
    for (long i = 0; i < channels; i++) {
      sums.first[i] += s[i];
      sums.second[i] += q[i];
    }
  }
}

}  // namespace
