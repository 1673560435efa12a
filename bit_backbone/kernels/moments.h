// The moments of maps by channel, and what normalises the maps with them.

#pragma once

#include <omp.h>

#include <vector>

#include "native.h"

namespace {

struct Norm {
  const float *weight, *bias, *steps;  // steps, if any, divide the result
  long groups;
  double eps;
};

// Of the values of a part of an image's pixels, by channel: the sums of differences to an origin, and
// of their squares.
struct Moments {
  float* origin;
  Sums sums;
  long pixels;
};

// Memory for the moments of `parts` parts of each image, which share `lines` of `length` pixels.
struct Parts {
  long images, parts, channels, lines, length;
  std::vector<float> origins;
  std::vector<double> sums;
  Parts(long images, long parts, long channels, long lines, long length)
      : images(images), parts(parts), channels(channels), lines(lines), length(length),
        origins(images * parts * channels), sums(images * parts * channels * 2) {}
  Moments of(long image, long part) {
    long at = (image * parts + part) * channels;
    double* first = sums.data() + 2 * at;
    long own = begin_of(lines, parts, part + 1) - begin_of(lines, parts, part);
    return {origins.data() + at, {first, first + channels}, own * length};
  }
};

// Writes centre, scale and shift of an image's channels, from the moments of its parts (Chan et al.,
// 1983).
void write_table(Parts& all, long image, const Norm& norm, float* table) {
  long width = all.channels / norm.groups;
  float *centre = table, *scale = centre + all.channels, *shift = scale + all.channels;
  for (long g = 0; g < norm.groups; g++) {
    double mean = 0, squares = 0, count = double(all.lines) * all.length * width;
    for (int pass = 0; pass < 2; pass++)
      for (long part = 0; part < all.parts; part++) {
        Moments m = all.of(image, part);
        if (m.pixels == 0) continue;
        for (long c = g * width; c < (g + 1) * width; c++) {
          double own = m.sums.first[c] / m.pixels, delta = m.origin[c] + own - mean;
          if (pass == 0)
            mean += m.pixels * (m.origin[c] + own) / count;
          else
            squares += m.sums.second[c] + m.pixels * (delta * delta - own * own);
        }
      }
    double variance = squares / count;
    double rstd = 1.0 / std::sqrt((variance > 0 ? variance : 0.0) + norm.eps);
    if (variance != variance) rstd = variance;
    for (long c = g * width; c < (g + 1) * width; c++) {
      Affine own = affine(mean, rstd, norm.weight[c], norm.bias[c], norm.steps ? norm.steps[c] : 1.0f);
      centre[c] = own.centre, scale[c] = own.scale, shift[c] = own.shift;
    }
  }
}

template <typename T>
void write_tables(const T* x, long images, long pixels, long channels, int threads, const Norm& norm,
                  float* tables) {
  Parts moments(images, pixels < threads ? 1 : threads, channels, pixels, 1);
  std::vector<float> work(images * moments.parts * channels * 2);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long job = 0; job < images * moments.parts; job++) {
    long image = job / moments.parts, part = job % moments.parts;
    Moments own = moments.of(image, part);
    const T* rows = x + (image * pixels + begin_of(pixels, moments.parts, part)) * channels;
    for (long c = 0; c < channels; c++) own.origin[c] = widen(rows[c]);
    float* s = work.data() + job * channels * 2;
    add_rows(rows, own.pixels, channels, own.origin, s, s + channels, own.sums);
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long i = 0; i < images; i++) write_table(moments, i, norm, tables + i * 3 * channels);
}

}  // namespace
