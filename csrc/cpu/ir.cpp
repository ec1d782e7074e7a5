// IR loss of a run of elements: reads student and teacher, writes the gradient, in one pass.
#include "../ir.h"

#include "../typed.h"
#include "lanes.h"

namespace litfast {
namespace LITFAST_ISA {
namespace {

template <class S, class T>
constexpr bool kBothBf16 = false;
template <>
constexpr bool kBothBf16<bf16, bf16> = true;

// Two bf16 in a word are a shift and a mask away from two floats, which is cheaper than to spread them over a vector
// twice as wide and to gather them again.
template <Penalty penalty, bool wanted>
double bf16_pairs(const bf16* s, const bf16* t, bf16* g, float factor, int64_t words) {
  constexpr uint32_t kHigh = 0xFFFF0000u;
  double total = 0;
  for (int64_t i = 0; i < words;) {
    const int64_t stop = words - i < kPiece ? words : i + kPiece;
    float low[kLanes] = {}, high[kLanes] = {};
    for (; i < stop; i += kLanes) {
#pragma omp simd
      for (int j = 0; j < kLanes; ++j) {
        uint32_t x, y;
        memcpy(&x, s + 2 * (i + j), sizeof x);
        memcpy(&y, t + 2 * (i + j), sizeof y);
        const float a = bits_as<float>(x << 16) - bits_as<float>(y << 16);
        const float b = bits_as<float>(x & kHigh) - bits_as<float>(y & kHigh);
        low[j] += penalty_value<penalty>(a);
        high[j] += penalty_value<penalty>(b);
        if (!wanted) continue;
        const uint32_t word = rounded_to_bf16(factor * penalty_slope<penalty>(a)) >> 16 |
                              (rounded_to_bf16(factor * penalty_slope<penalty>(b)) & kHigh);
        memcpy(g + 2 * (i + j), &word, sizeof word);
      }
    }
    total += add_up(low) + add_up(high);
  }
  return total;
}

template <Penalty penalty, class Types, bool wanted>
double elements(const IrSection& section, int64_t begin, int64_t end) {
  using S = typename Types::S;
  using T = typename Types::T;
  using A = typename Types::A;
  using G = typename Types::G;
  const S* s = static_cast<const S*>(section.student);
  const T* t = static_cast<const T*>(section.teacher);
  G* g = static_cast<G*>(section.gradient);
  const A factor = A(section.factor);
  double total = 0;
  if constexpr (kBothBf16<S, T>) {
    const int64_t words = (end - begin) / (2 * kLanes) * kLanes;
    total = bf16_pairs<penalty, wanted>(s + begin, t + begin, g + begin, factor, words);
    begin += 2 * words;
  }
  for (int64_t i = begin; i < end;) {
    const int64_t stop = end - i < kPiece ? end : i + kPiece;
    A sums[kLanes] = {};
    for (; i + kLanes <= stop; i += kLanes) {
      const Run<S> x(s + i);
      const Run<T> y(t + i);
#pragma omp simd
      for (int j = 0; j < kLanes; ++j) {
        const A d = x[j] - y[j];
        sums[j] += penalty_value<penalty>(d);
        if (wanted) g[i + j] = narrow(G{}, factor * penalty_slope<penalty>(d));
      }
    }
    total += add_up(sums);
    for (; i < stop; ++i) {
      const A d = widen(s[i]) - widen(t[i]);
      total += penalty_value<penalty>(d);
      if (wanted) g[i] = narrow(G{}, factor * penalty_slope<penalty>(d));
    }
  }
  return total;
}

template <Penalty penalty>
double typed_elements(const IrSection& section, int64_t begin, int64_t end) {
  return with_types(section.student_dtype, section.teacher_dtype, [&](auto types) {
    using Types = decltype(types);
    return section.gradient ? elements<penalty, Types, true>(section, begin, end)
                            : elements<penalty, Types, false>(section, begin, end);
  });
}

}  // namespace

double ir_elements(const IrSection& section, Penalty penalty, int64_t begin, int64_t end) {
  switch (penalty) {
    case Penalty::l1: return typed_elements<Penalty::l1>(section, begin, end);
    case Penalty::smooth_l1: return typed_elements<Penalty::smooth_l1>(section, begin, end);
    default: return typed_elements<Penalty::l2>(section, begin, end);
  }
}

}  // namespace LITFAST_ISA
}  // namespace litfast
