// GroupNorm + activation and weight standardization on CPUs, without autograd.
//
// Plain loops that compilers vectorize, with OpenMP. Built by native_build.py without linking an OpenMP
// runtime, so that PyTorch's, which is loaded already, runs the threads. All arithmetic is
// float32; sums of more than a block of terms are float64.

#include <omp.h>

#include "native.h"

namespace {

// From the sums of each channel to what is done to its values.
void affine_of(Sums sums, const float* origin, long pixels, long channels, long groups,
               const float* weight, const float* bias, const float* steps, double eps,
               float* centre, float* scale, float* shift) {
  long width = channels / groups;
  for (long g = 0; g < groups; g++) {
    double mean = 0, square = 0;
    for (long i = g * width; i < (g + 1) * width; i++) mean += origin[i] + sums.first[i] / pixels;
    mean /= width;
    for (long i = g * width; i < (g + 1) * width; i++) {
      double own = sums.first[i] / pixels, delta = origin[i] + own - mean;
      square += sums.second[i] / pixels - own * own + delta * delta;
    }
    double variance = square / width;
    double rstd = 1.0 / std::sqrt((variance > 0 ? variance : 0.0) + eps);
    if (variance != variance) rstd = variance;
    for (long i = g * width; i < (g + 1) * width; i++) {
      Affine own = affine(mean, rstd, weight[i], bias[i], steps ? steps[i] : 1.0f);
      centre[i] = own.centre, scale[i] = own.scale, shift[i] = own.shift;
    }
  }
}

template <typename T, typename U, bool RELU>
void apply_rows(const T* x, U* y, long pixels, long channels, const float* centre,
                const float* scale, const float* shift) {
  for (long p = 0; p < pixels; p++) {
    const T* a = x + p * channels;
    U* b = y + p * channels;
#pragma omp simd
    for (long i = 0; i < channels; i++)
      b[i] = narrow<U>(activate<RELU>((widen(a[i]) - centre[i]) * scale[i] + shift[i]));
  }
}

// Channels-last maps. `work` holds 2 * channels doubles for each thread, then 6 * channels floats
// for each thread.
template <typename T, typename U, bool RELU>
void rows(const T* x, U* y, long images, long pixels, long channels, long groups,
          const float* weight, const float* bias, const float* steps, double eps, int threads,
          double* work) {
  // With images enough each thread normalises its own, which are then still in its cache.
  bool by_image = images % threads == 0 || images >= 4 * threads;
  float* slim = (float*)(work + 2 * channels * threads);
#pragma omp parallel num_threads(threads)
  {
    long me = omp_get_thread_num(), count = omp_get_num_threads();
    long part = by_image ? 0 : me, parts = by_image ? 1 : count;
    long image = by_image ? begin_of(images, count, me) : 0;
    long last = by_image ? begin_of(images, count, me + 1) : images;
    long begin = begin_of(pixels, parts, part), extent = begin_of(pixels, parts, part + 1) - begin;
    float *origin = slim + 6 * channels * me, *s = origin + channels, *q = s + channels;
    float *centre = q + channels, *scale = centre + channels, *shift = scale + channels;
    Sums own = {work + 2 * channels * me, work + 2 * channels * me + channels};
    for (; image < last; image++) {
      const T* map = x + image * pixels * channels;
      for (long i = 0; i < channels; i++) origin[i] = widen(map[i]);
      memset(own.first, 0, 2 * channels * sizeof(double));
      add_rows(map + begin * channels, extent, channels, origin, s, q, own);
      Sums all = own;
      if (!by_image) {
#pragma omp barrier
#pragma omp single
        for (long other = 1; other < count; other++)
          for (long i = 0; i < 2 * channels; i++) work[i] += work[2 * channels * other + i];
        all = {work, work + channels};
      }
      affine_of(all, origin, pixels, channels, groups, weight, bias, steps, eps, centre, scale, shift);
      apply_rows<T, U, RELU>(map + begin * channels, y + (image * pixels + begin) * channels,
                             extent, channels, centre, scale, shift);
      if (!by_image) {
#pragma omp barrier
      }
    }
  }
}

// Contiguous maps: a group's values lie together.
template <typename T, typename U, bool RELU>
void planes(const T* x, U* y, long images, long pixels, long channels, long groups,
            const float* weight, const float* bias, const float* steps, double eps, int threads) {
  long width = channels / groups, values = width * pixels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long job = 0; job < images * groups; job++) {
    const T* a = x + job * values;
    U* b = y + job * values;
    float origin = widen(a[0]);
    double first = 0, second = 0;
    for (long start = 0; start < values; start += BLOCK * 16) {
      long stop = start + BLOCK * 16 < values ? start + BLOCK * 16 : values;
      float s = 0, q = 0;
#pragma omp simd reduction(+ : s, q)
      for (long i = start; i < stop; i++) {
        float e = widen(a[i]) - origin;
        s += e;
        q += e * e;
      }
      first += s;
      second += q;
    }
    double mean = first / values, variance = second / values - mean * mean;
    double rstd = 1.0 / std::sqrt((variance < 0 ? 0.0 : variance) + eps);
    mean += origin;
    for (long c = 0; c < width; c++) {
      long channel = job % groups * width + c;
      auto [centre, scale, shift] = affine(mean, rstd, weight[channel], bias[channel],
                                         steps ? steps[channel] : 1.0f);
#pragma omp simd
      for (long i = c * pixels; i < (c + 1) * pixels; i++)
        b[i] = narrow<U>(activate<RELU>((widen(a[i]) - centre) * scale + shift));
    }
  }
}

template <typename T, typename U, bool RELU>
void group_norm(bool channels_last, const void* x, void* y, long images, long pixels, long channels,
                long groups, const float* weight, const float* bias, const float* steps,
                double eps, int threads, double* work) {
  if (channels_last)
    rows<T, U, RELU>((const T*)x, (U*)y, images, pixels, channels, groups, weight, bias, steps,
                     eps, threads, work);
  else
    planes<T, U, RELU>((const T*)x, (U*)y, images, pixels, channels, groups, weight, bias, steps,
                       eps, threads);
}

template <typename T>
void standardize(const T* weight, T* out, long filters, long values, double eps, int threads,
                 float* means, float* rstds) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long f = 0; f < filters; f++) {
    const T* a = weight + f * values;
    T* b = out + f * values;
    double first = 0, second = 0;
    for (long start = 0; start < values; start += BLOCK * 16) {
      long stop = start + BLOCK * 16 < values ? start + BLOCK * 16 : values;
      float s = 0;
#pragma omp simd reduction(+ : s)
      for (long i = start; i < stop; i++) s += widen(a[i]);
      first += s;
    }
    float mean = float(first / values);
    for (long start = 0; start < values; start += BLOCK * 16) {
      long stop = start + BLOCK * 16 < values ? start + BLOCK * 16 : values;
      float q = 0;
#pragma omp simd reduction(+ : q)
      for (long i = start; i < stop; i++) {
        float e = widen(a[i]) - mean;
        q += e * e;
      }
      second += q;
    }
    float rstd = float(1.0 / std::sqrt(second / values + eps));
    means[f] = mean;
    rstds[f] = rstd;
#pragma omp simd
    for (long i = 0; i < values; i++) b[i] = narrow<T>((widen(a[i]) - mean) * rstd);
  }
}

}  // namespace

extern "C" {

// Bits of `kind`: 1 channels-last, 2 bfloat16 in, 4 bfloat16 out, 8 ReLU, 16 uint8 out instead, of
// the values divided by `steps`, one for each channel; else `steps` is null.
void bit_group_norm(int kind, const void* x, void* y, long images, long pixels, long channels,
                    long groups, const float* weight, const float* bias, const float* steps,
                    double eps, int threads, double* work) {
  using Run = void (*)(bool, const void*, void*, long, long, long, long, const float*, const float*,
                       const float*, double, int, double*);
  static const Run runs[] = {
      group_norm<float, float, false>,       group_norm<bfloat16, float, false>,
      group_norm<float, bfloat16, false>,    group_norm<bfloat16, bfloat16, false>,
      group_norm<float, float, true>,        group_norm<bfloat16, float, true>,
      group_norm<float, bfloat16, true>,     group_norm<bfloat16, bfloat16, true>,
      group_norm<float, uint8_t, false>,     group_norm<bfloat16, uint8_t, false>,
  };
  runs[kind >> 1](kind & 1, x, y, images, pixels, channels, groups, weight, bias, steps, eps, threads,
                  work);
}

// Bit of `kind`: 2 bfloat16.
void bit_standardize(int kind, const void* weight, void* out, long filters, long values, double eps,
                     int threads, float* means, float* rstds) {
  if (kind & 2)
    standardize((const bfloat16*)weight, (bfloat16*)out, filters, values, eps, threads, means, rstds);
  else
    standardize((const float*)weight, (float*)out, filters, values, eps, threads, means, rstds);
}
}
