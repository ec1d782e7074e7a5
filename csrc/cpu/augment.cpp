// Gather, crop, flip, look-up and layout in one pass: a byte is read, its value is written. The arithmetic is in the table, so
// an element is copied as an unsigned integer of its size. The look-up is scalar, and bound by it, not by the memory: about
// 0.4 ns an element on an EPYC core whatever the type. AVX2 gathers and unrolling measured no faster.
#include "../augment.h"

#include "kernels.h"

namespace litfast {
namespace {

constexpr int64_t kThreadElements = 16384;  // worth a thread of its own
constexpr int64_t kLine = 64;               // bytes

// Where a sample's window lies. Its columns outside begin <= x < end, and its rows outside the image, are padding.
struct Window {
  int64_t row;         // of the image, at the window's row 0; may lie outside
  int64_t column;      // of the image, at the window's column 0; may lie outside
  int64_t step;        // columns of the image for one of the window: 1, or -1 when mirrored
  int64_t begin, end;
};

int64_t clamped(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

Window window_of(const Augment& a, int64_t b) {
  const int64_t shift = a.left[b] - a.crop, outside = a.mirrored[b] ? shift : -shift;
  Window w;
  w.row = a.top[b] - a.crop;
  w.step = a.mirrored[b] ? -1 : 1;
  w.column = a.mirrored[b] ? a.W - 1 + shift : shift;
  w.begin = clamped(outside, 0, a.W);
  w.end = clamped(a.W + outside, w.begin, a.W);
  return w;
}

// kC: channels when they are known at compile time, else 0.
template <class E, int kC>
void pixels(const Augment& a, const Window& w, const uint8_t* image, E* out) {
  const int64_t C = kC ? kC : a.C, step = w.step * C;
  const E* table = static_cast<const E*>(a.table);
  const auto pad = [&](E* to, int64_t count) {
    for (int64_t x = 0; x < count; ++x)
      for (int64_t c = 0; c < C; ++c) to[x * C + c] = table[c * 256];
  };
  for (int64_t y = 0; y < a.H; ++y, out += a.W * C) {
    const int64_t row = y + w.row;
    if (row < 0 || row >= a.H) {
      pad(out, a.W);
      continue;
    }
    pad(out, w.begin);
    const uint8_t* from = image + (row * a.W + w.column) * C + w.begin * step;
    for (int64_t x = w.begin; x < w.end; ++x, from += step)
      for (int64_t c = 0; c < C; ++c) out[x * C + c] = table[c * 256 + from[c]];
    pad(out + w.end * C, a.W - w.end);
  }
}

template <class E>
void planes(const Augment& a, const Window& w, const uint8_t* image, E* out) {
  const int64_t step = w.step * a.C;
  for (int64_t c = 0; c < a.C; ++c) {
    const E* table = static_cast<const E*>(a.table) + c * 256;
    for (int64_t y = 0; y < a.H; ++y, out += a.W) {
      const int64_t row = y + w.row;
      const bool inside = row >= 0 && row < a.H;
      const int64_t begin = inside ? w.begin : a.W, end = inside ? w.end : a.W;
      for (int64_t x = 0; x < begin; ++x) out[x] = table[0];
      const uint8_t* from = image + (row * a.W + w.column) * a.C + begin * step + c;
      for (int64_t x = begin; x < end; ++x, from += step) out[x] = table[*from];
      for (int64_t x = end; x < a.W; ++x) out[x] = table[0];
    }
  }
}

template <class E>
void sample(const Augment& a, int64_t b) {
  const int64_t elements = a.H * a.W * a.C;
  const Window w = window_of(a, b);
  const uint8_t* image = a.images + a.index[b] * elements;
  E* out = static_cast<E*>(a.out) + b * elements;
  if (!a.channels_last) return planes<E>(a, w, image, out);
  switch (a.C) {
    case 1: return pixels<E, 1>(a, w, image, out);
    case 3: return pixels<E, 3>(a, w, image, out);
    default: return pixels<E, 0>(a, w, image, out);
  }
}

bool is_bad(const Augment& a, int64_t b) {
  const auto outside = [](int64_t x, int64_t end) { return x < 0 || x >= end; };
  return outside(a.index[b], a.N) || outside(a.top[b], 2 * a.crop + 1) || outside(a.left[b], 2 * a.crop + 1);
}

}  // namespace

int64_t augment_cpu(const Augment& a, int threads) {
  for (int64_t b = 0; b < a.B; ++b)
    if (is_bad(a, b)) return b;
  const int64_t elements = a.H * a.W * a.C, worth = a.B * elements / kThreadElements;
  if (worth < threads) threads = worth > 1 ? int(worth) : 1;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < a.B; ++b) {
    if (b + 1 < a.B) {  // where the next sample lies no hardware can guess
      const uint8_t* next = a.images + a.index[b + 1] * elements;
      for (int64_t i = 0; i < elements && i < 64 * kLine; i += kLine) __builtin_prefetch(next + i);
    }
    switch (a.size) {
      case 2: sample<uint16_t>(a, b); break;
      case 8: sample<uint64_t>(a, b); break;
      default: sample<uint32_t>(a, b);
    }
  }
  return -1;
}

}  // namespace litfast
