// Convolution of GroupNorm + ReLU on x86 CPUs, without autograd: y = [y +] conv(relu(norm(x))).
//
// Maps are channels-last. The part of the input that a block of output pixels needs is copied with
// its padding, and is normalised on the way. The copy stays in the cache, so the normalised map is
// never in memory. What is left are products of small matrices (tiles.h): neighbouring pixels by
// some filters. While results are in the cache, their moments are taken for the next GroupNorm.

#include <omp.h>

#include "moments.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include "tiles.h"

namespace {

constexpr long CHUNK_BYTES = 256;  // of neighbouring channels of a pixel, which lie together
constexpr long BLOCK_TILES = BLOCK / ROWS;  // of a block
constexpr long PACKING = 8;  // copying a pixel takes as long as multiplying it by so many filters

struct Geometry {
  long height, width, channels, out_height, out_width, filters;
  long kernel, stride, dilation, top, left;
};

// How threads share the work: parts of images, times parts of an image's lines of pixels, times parts
// of the panels of filters.
struct Split {
  long images, lines, panels;
};

Split split_of(long images, long lines, long length, long panels, long threads) {
  Split best = {1, 1, 1};
  double least = 1e300;
  long choices[] = {1, images < threads ? images : threads};
  for (long of_images : choices)
    for (long of_lines = 1; of_lines <= threads / of_images; of_lines++) {
      long of_panels = threads / of_images / of_lines;
      if (of_panels > panels) of_panels = panels;
      double cost = double((images + of_images - 1) / of_images) *
                    ((lines + of_lines - 1) / of_lines) * length *
                    ((panels + of_panels - 1) / of_panels * COLUMNS + PACKING);
      if (cost < least) least = cost, best = {of_images, of_lines, of_panels};
    }
  return best;
}

// Channels of a chunk, for numbers of `size` bytes: chunks are about even, and hold whole groups.
long chunk_of(long channels, long size) {
  long group = 4 / size, most = CHUNK_BYTES / size, chunks = (channels + most - 1) / most;
  return ((channels + chunks - 1) / chunks + group - 1) / group * group;
}

// Neighbouring pixels do not start a multiple of 4096 bytes apart, where they would compete for the
// same cache lines.
template <typename F>
constexpr long pitch_of() {
  return (CHUNK_BYTES + 64) / sizeof(F);
}

// A rectangle of a map.
struct Area {
  long top, left, height, width;
};

// Copies an area of the input, every `step` pixels, as [chunks, height, width, pitch].
template <typename F, typename T>
void copy_area(const Geometry& g, const T* x, const float* table, Area area, long step, long chunk, F* copy) {
  const float *centre = table, *scale = centre + g.channels, *shift = scale + g.channels;
  long distance = area.height * area.width * pitch_of<F>();
  for (long i = 0; i < area.height; i++)
    for (long j = 0; j < area.width; j++, copy += pitch_of<F>()) {
      long v = area.top + i * step, h = area.left + j * step;
      bool inside = v >= 0 && v < g.height && h >= 0 && h < g.width;
      const T* source = x + (v * g.width + h) * g.channels;
      F* pixel = copy;
      for (long c = 0; c < g.channels; c += chunk, pixel += distance) {
        long n = !inside ? 0 : g.channels - c < chunk ? g.channels - c : chunk;
#pragma omp simd
        for (long k = 0; k < n; k++)
          pixel[k] = narrow<F>(activate<true>((widen(source[c + k]) - centre[c + k]) * scale[c + k] + shift[c + k]));
        if (n < chunk) memset((void*)(pixel + n), 0, (chunk - n) * sizeof(F));
      }
    }
}

// Scales products, adds them to `y` if asked, writes them, and adds up their moments.
template <typename U, bool ADD>
inline void finish(const float* products, long rows, long columns, const float* scales, U* y, long filters,
                   const float* origin, float* s, float* q) {
  for (long i = 0; i < rows; i++, products += COLUMNS, y += filters) {
#pragma omp simd
    for (long j = 0; j < columns; j++) {
      float value = products[j] * scales[j];
      if (ADD) value += widen(y[j]);
      y[j] = narrow<U>(value);
      float e = value - origin[j];
      s[j] += e;
      q[j] += e * e;
    }
  }
}

template <typename P, typename T, bool ADD>
struct Convolution {
  using F = typename P::Factor;
  static constexpr Multiplies<P, pitch_of<F>()> SIDE_BY_SIDE{};
  static constexpr Multiplies<P, 2 * pitch_of<F>()> EVERY_SECOND{};
  const Geometry& g;
  const T* x;
  const float* table;
  const F* weight;
  const float* scales;
  T* y;
  Parts* moments;

  bool is_pointwise() const { return g.kernel == 1; }
  // Between the pixels of the input that are copied; between the copied pixels that neighbours read.
  long copied_step() const { return is_pointwise() ? g.stride : 1; }
  long read_step() const { return is_pointwise() ? 1 : g.stride; }
  long chunk() const { return chunk_of(g.channels, sizeof(F)); }
  long chunks() const { return (g.channels + chunk() - 1) / chunk(); }
  long parts() const { return g.kernel * g.kernel * chunks(); }
  long pixels() const { return g.out_height * g.out_width; }
  long panels() const { return (g.filters + COLUMNS - 1) / COLUMNS; }

  Area needed(Area out) const {
    long reach = (g.kernel - 1) * g.dilation, step = read_step();
    return {out.top * g.stride - g.top, out.left * g.stride - g.left, (out.height - 1) * step + reach + 1,
            (out.width - 1) * step + reach + 1};
  }

  // The results of one panel of filters for an area, from the copy of what it needs.
  void panel(const F* copy, const long* offsets, long image, long part, Area out, long copied_width,
             bool fresh, long n) const {
    alignas(64) float products[ROWS * COLUMNS];
    alignas(64) float origin[COLUMNS] = {}, s[COLUMNS] = {}, q[COLUMNS] = {}, scale[COLUMNS];
    long begin = n * COLUMNS, columns = g.filters - begin < COLUMNS ? g.filters - begin : COLUMNS;
    for (long j = 0; j < columns; j++) scale[j] = scales ? scales[begin + j] : 1.0f;
    Moments own{};
    if (moments) own = moments->of(image, part);
    if (moments && !fresh) memcpy(origin, own.origin + begin, columns * sizeof(float));
    const Multiply<P>* multiplies = read_step() == 1 ? SIDE_BY_SIDE.of : EVERY_SECOND.of;
    long tiles = (out.width + ROWS - 1) / ROWS, depth = parts() * chunk() * COLUMNS;
    for (long tile = 0; tile < out.height * tiles; tile++) {
      long i = tile / tiles, j = begin_of(out.width, tiles, tile % tiles);
      long rows = begin_of(out.width, tiles, tile % tiles + 1) - j;
      multiplies[rows](copy + (i * copied_width + j) * read_step() * pitch_of<F>(), offsets,
                       weight + n * depth, parts(), chunk() / P::GROUP, products);
      T* to = y + (image * pixels() + (out.top + i) * g.out_width + out.left + j) * g.filters + begin;
      if (fresh && tile == 0)
        for (long c = 0; c < columns; c++) origin[c] = products[c] * scale[c] + (ADD ? widen(to[c]) : 0.0f);
      if (columns == COLUMNS)  // a constant number of columns needs no loop
        finish<T, ADD>(products, rows, COLUMNS, scale, to, g.filters, origin, s, q);
      else
        finish<T, ADD>(products, rows, columns, scale, to, g.filters, origin, s, q);
    }
    if (!moments) return;
    for (long c = 0; c < columns; c++) {
      own.origin[begin + c] = origin[c];
      own.sums.first[begin + c] = s[c] + (fresh ? 0.0 : own.sums.first[begin + c]);
      own.sums.second[begin + c] = q[c] + (fresh ? 0.0 : own.sums.second[begin + c]);
    }
  }

  // One thread's share of an area of an image, in blocks.
  void share(long image, long part, Area all, long panel_begin, long panel_end, std::vector<F>& copy) const {
    // Blocks of several rows share more of their input than long ones.
    long widest = (all.height > 1 ? BLOCK_TILES / 2 : BLOCK_TILES) * ROWS;
    long across = (all.width + widest - 1) / widest;
    long highest = BLOCK / ((all.width + across - 1) / across), down = (all.height + highest - 1) / highest;
    std::vector<long> offsets(parts());
    for (long b = 0; b < down * across; b++) {
      long top = begin_of(all.height, down, b / across), left = begin_of(all.width, across, b % across);
      Area out = {all.top + top, all.left + left, begin_of(all.height, down, b / across + 1) - top,
                  begin_of(all.width, across, b % across + 1) - left};
      Area in = needed(out);
      for (long p = 0; p < parts(); p++) {
        long tap = p / chunks(), row = p % chunks() * in.height + tap / g.kernel * g.dilation;
        offsets[p] = (row * in.width + tap % g.kernel * g.dilation) * pitch_of<F>();
      }
      copy.resize(chunks() * in.height * in.width * pitch_of<F>());
      copy_area<F, T>(g, x + image * g.height * g.width * g.channels, table + image * 3 * g.channels, in,
                      copied_step(), chunk(), copy.data());
      for (long n = panel_begin; n < panel_end; n++)
        panel(copy.data(), offsets.data(), image, part, out, in.width, b == 0, n);
    }
  }
};

// A pointwise convolution does not need rows: its map is one row of pixels.
Geometry flattened(Geometry g) {
  if (g.kernel == 1 && g.stride == 1 && g.top == 0 && g.left == 0) {
    g.width *= g.height, g.out_width *= g.out_height;
    g.height = g.out_height = 1;
  }
  return g;
}

template <typename P, typename T, bool ADD>
void convolve(const Geometry& given, const void* x, const float* table, const void* weight,
              const float* scales, void* y, long images, int threads, const Norm* next, float* next_table) {
  using F = typename P::Factor;
  Geometry g = flattened(given);
  Convolution<P, T, ADD> own{g, (const T*)x, table, (const F*)weight, scales, (T*)y, nullptr};
  bool by_row = g.out_height > 1;
  long lines = by_row ? g.out_height : g.out_width, length = own.pixels() / lines;
  Split split = split_of(images, lines, length, own.panels(), threads);
  Parts moments(next ? images : 0, split.lines, g.filters, lines, length);
  if (next) own.moments = &moments;
  long jobs = split.images * split.lines * split.panels;
#pragma omp parallel num_threads(threads)
  {
    static thread_local std::vector<F> copy;
    // The system may grant fewer threads than asked for, so shares are dealt out.
    for (long job = omp_get_thread_num(); job < jobs; job += omp_get_num_threads()) {
      long part = job / split.panels % split.lines, first = begin_of(lines, split.lines, part);
      long count = begin_of(lines, split.lines, part + 1) - first;
      Area area = by_row ? Area{first, 0, count, length} : Area{0, first, 1, count};
      long begin = begin_of(own.panels(), split.panels, job % split.panels);
      long end = begin_of(own.panels(), split.panels, job % split.panels + 1);
      long of_images = job / split.panels / split.lines;
      for (long i = begin_of(images, split.images, of_images); i < begin_of(images, split.images, of_images + 1); i++)
        if (count > 0) own.share(i, part, area, begin, end, copy);
    }
    if (next) {
#pragma omp barrier
#pragma omp for schedule(static)
      for (long i = 0; i < images; i++) write_table(moments, i, *next, next_table + i * 3 * g.filters);
    }
  }
}

}  // namespace

extern "C" {

// Bits of the types that can be multiplied: 1 float32, 2 bfloat16, 4 int8.
int bit_convolution_types() { return 1 | (BFloat16::EXISTS ? 2 : 0) | (Int8::EXISTS ? 4 : 0); }

// How filters of `size` bytes a number are laid out: the filters of a tile, and the channels that
// lie together.
void bit_convolution_layout(long size, long channels, long* layout) {
  layout[0] = COLUMNS;
  layout[1] = chunk_of(channels, size);
}

// Centre, scale and shift of each channel, [images, 3, channels]. Bit of `kind`: 2 bfloat16.
void bit_norm_tables(int kind, const void* x, long images, long pixels, long channels, long groups,
                     const float* weight, const float* bias, const float* steps, double eps, int threads,
                     float* tables) {
  Norm norm = {weight, bias, steps, groups, eps};
  if (kind & 2)
    write_tables((const bfloat16*)x, images, pixels, channels, threads, norm, tables);
  else
    write_tables((const float*)x, images, pixels, channels, threads, norm, tables);
}

// Bits of `kind`: 1 adds to `y`, 2 maps in bfloat16, 4 factors in 8 bits. Factors have otherwise the
// type of the maps. `geometry` is a Geometry. `scales` multiply the results, if given. With
// `next_tables`, the tables of a GroupNorm of the result are written there.
void bit_convolution(int kind, const long* geometry, const void* x, const float* tables, const void* weight,
                     const float* scales, void* y, long images, int threads, long groups,
                     const float* next_weight, const float* next_bias, const float* next_steps, double eps,
                     float* next_tables) {
  using Run = void (*)(const Geometry&, const void*, const float*, const void*, const float*, void*, long,
                       int, const Norm*, float*);
  static const Run runs[] = {
      convolve<Float32, float, false>,      convolve<Float32, float, true>,
      convolve<BFloat16, bfloat16, false>,  convolve<BFloat16, bfloat16, true>,
      convolve<Int8, float, false>,         convolve<Int8, float, true>,
      convolve<Int8, bfloat16, false>,      convolve<Int8, bfloat16, true>,
  };
  Geometry g;
  memcpy(&g, geometry, sizeof g);
  Norm next = {next_weight, next_bias, next_steps, groups, eps};
  runs[kind](g, x, tables, weight, scales, y, images, threads, next_tables ? &next : nullptr, next_tables);
}
}

#else

extern "C" {
int bit_convolution_types() { return 0; }
}

#endif
