// Runs of kLanes neighbours. Loops over a run have a constant length: the compiler keeps them in vector registers.
// No template of the standard library here: its weak symbols would mix instruction sets.
#pragma once

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "../math.h"

namespace litfast {
namespace LITFAST_ISA {

constexpr int kLanes = 16;
constexpr int64_t kPiece = 32 * kLanes;  // elements: 32 additions a lane in the maths' own type, then on in double

// kLanes elements where they lie, each widened when it is asked for.
template <class X>
class Run {
 public:
  LITFAST_MATH explicit Run(const X* x) : x_(x) {}
  LITFAST_MATH auto operator[](int j) const { return widen(x_[j]); }

 private:
  const X* x_;
};

#ifdef __F16C__
// The compiler does not vectorise the instruction that widens half.
template <>
class Run<f16> {
 public:
  LITFAST_MATH explicit Run(const f16* x) {
    for (int j = 0; j < kLanes; j += 8)
      _mm256_storeu_ps(x_ + j, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + j))));
  }
  LITFAST_MATH float operator[](int j) const { return x_[j]; }

 private:
  float x_[kLanes];
};
#endif

// The last elements, fewer than a run; zeros follow them.
template <class X>
class Tail {
 public:
  LITFAST_MATH Tail(const X* x, int64_t n) {
    for (int j = 0; j < kLanes; ++j) x_[j] = j < n ? widen(x[j]) : 0;
  }
  LITFAST_MATH auto operator[](int j) const { return x_[j]; }

 private:
  decltype(widen(X{})) x_[kLanes];
};

template <class A>
LITFAST_MATH double add_up(const A (&lanes)[kLanes]) {
  double sum = 0;
  for (int j = 0; j < kLanes; ++j) sum += lanes[j];
  return sum;
}

}  // namespace LITFAST_ISA
}  // namespace litfast
