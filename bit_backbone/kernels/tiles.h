// Products of small matrices whose sums stay in registers, on x86 CPUs with AVX2 or AVX-512.
//
// A tile is ROWS rows by COLUMNS filters. Its factors are numbers of one type; instructions multiply
// GROUP neighbouring ones at once, so filters lie as [depth / GROUP][COLUMNS][GROUP].

#pragma once

#include <immintrin.h>

#include "native.h"

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 14;  // 28 sums, 2 of the filters, 1 of the rows: 31 of 32 registers
#else
constexpr int LANES = 8, ROWS = 6;  // 12 + 2 + 1 of 16
#endif
constexpr int COLUMNS = 2 * LANES;

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int Ints __attribute__((vector_size(4 * LANES)));
typedef float LooseFloats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int LooseInts __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Ints repeat(const void* four_bytes) {
  int value;
  memcpy(&value, four_bytes, sizeof value);
#if defined(__AVX512F__)
  return (Ints)_mm512_set1_epi32(value);
#else
  return (Ints)_mm256_set1_epi32(value);
#endif
}

struct Float32 {
  using Factor = float;
  using Sum = Floats;
  static constexpr int GROUP = 1;
  static Sum add(Sum sum, Ints row, Ints filters) { return sum + (Floats)row * (Floats)filters; }
};

// What a type lacks whose products the processor has no instruction for.
template <typename SUM>
struct Missing {
  using Sum = SUM;
  static constexpr bool EXISTS = false;
  static Sum add(Sum sum, Ints, Ints) { return sum; }
};

struct BFloat16 : Missing<Floats> {
  using Factor = bfloat16;
  static constexpr int GROUP = 2;
#if defined(__AVX512BF16__)
  static constexpr bool EXISTS = true;
  static Sum add(Sum sum, Ints row, Ints filters) {
    return (Sum)_mm512_dpbf16_ps((__m512)sum, (__m512bh)row, (__m512bh)filters);
  }
#endif
};

// Rows without sign, filters with one.
struct Int8 : Missing<Ints> {
  using Factor = uint8_t;
  static constexpr int GROUP = 4;
#if defined(__AVX512VNNI__)
  static constexpr bool EXISTS = true;
  static Sum add(Sum sum, Ints row, Ints filters) {
    return (Sum)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)row, (__m512i)filters);
  }
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
  static constexpr bool EXISTS = true;
  static Sum add(Sum sum, Ints row, Ints filters) {
    return (Sum)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)row, (__m256i)filters);
  }
#endif
};

inline Floats to_float(Floats sum) { return sum; }
inline Floats to_float(Ints sum) { return __builtin_convertvector(sum, Floats); }

// Multiplies M rows, PITCH numbers apart, and writes [M][COLUMNS]. A row's numbers lie in `parts` parts
// of `steps` groups, at `offsets` from `rows`.
template <typename P, long PITCH, int M>
void multiply(const typename P::Factor* rows, const long* offsets, const typename P::Factor* filters,
              long parts, long steps, float* products) {
  typename P::Sum sums[M][2] = {};
  for (long part = 0; part < parts; part++) {
    const typename P::Factor* row = rows + offsets[part];
    for (long k = 0; k < steps; k++, row += P::GROUP, filters += COLUMNS * P::GROUP) {
      Ints left = *(const LooseInts*)filters;
      Ints right = *(const LooseInts*)(filters + LANES * P::GROUP);
#pragma GCC unroll 14
      for (int i = 0; i < M; i++) {
        Ints value = repeat(row + i * PITCH);
        sums[i][0] = P::add(sums[i][0], value, left);
        sums[i][1] = P::add(sums[i][1], value, right);
      }
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < M; i++) {
    *(LooseFloats*)(products + i * COLUMNS) = to_float(sums[i][0]);
    *(LooseFloats*)(products + i * COLUMNS + LANES) = to_float(sums[i][1]);
  }
}

template <typename P>
using Multiply = void (*)(const typename P::Factor*, const long*, const typename P::Factor*, long, long,
                          float*);

// The functions for 1 to ROWS rows, by their number.
template <typename P, long PITCH>
struct Multiplies {
  Multiply<P> of[ROWS + 1] = {};
  template <int M>
  constexpr void fill() {
    of[M] = multiply<P, PITCH, M>;
    if constexpr (M > 1) fill<M - 1>();
  }
  constexpr Multiplies() { fill<ROWS>(); }
};

}  // namespace
