// Maths of the losses, one element at a time: one source for the CPU (vectorised by the compiler) and for CUDA.
// Nothing branches, so a loop over these functions becomes straight vector code; NaN and inf pass through as in torch.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define LITFAST_MATH __host__ __device__ __forceinline__
#else
#define LITFAST_MATH inline __attribute__((always_inline))
#endif

// A file that is compiled once per instruction set puts each copy in a namespace of its own, or the linker would keep
// one copy of an inline function for all of them, perhaps the one with instructions this machine lacks.
#ifndef LITFAST_ISA
#define LITFAST_ISA common
#endif

namespace litfast {

enum class Dtype : int { f32, f64, bf16, f16 };
enum class Penalty : int { l2, l1, smooth_l1 };

struct bf16 {
  uint16_t bits;
};

struct f16 {
  uint16_t bits;
};

namespace LITFAST_ISA {

template <class To, class From>
LITFAST_MATH To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To result;
  memcpy(&result, &value, sizeof result);
  return result;
}

LITFAST_MATH float widen(float x) { return x; }
LITFAST_MATH double widen(double x) { return x; }
LITFAST_MATH float widen(bf16 x) { return bits_as<float>(static_cast<uint32_t>(x.bits) << 16); }

LITFAST_MATH float widen(f16 x) {
#ifdef __CUDA_ARCH__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  const uint32_t word = static_cast<uint32_t>(x.bits) << 16, sign = word & 0x80000000u, twice = word + word;
  const float normal = bits_as<float>((twice >> 4) + (0xE0u << 23)) * 0x1p-112f;  // rebias; inf and NaN stay
  const float denormal = bits_as<float>((twice >> 17) | (126u << 23)) - 0.5f;
  return bits_as<float>(sign | (twice < (1u << 27) ? bits_as<uint32_t>(denormal) : bits_as<uint32_t>(normal)));
#endif
}

// Round to nearest even. The first argument only names the type.
LITFAST_MATH float narrow(float, float x) { return x; }
LITFAST_MATH double narrow(double, double x) { return x; }

// The nearest bf16 to x, or a quiet NaN, in the upper half of the word; the lower half is anything.
LITFAST_MATH uint32_t rounded_to_bf16(float x) {
  const uint32_t word = bits_as<uint32_t>(x), rounded = word + 0x7FFFu + ((word >> 16) & 1u);
  return x != x ? 0x7FC00000u : rounded;
}

LITFAST_MATH bf16 narrow(bf16, float x) {
#ifdef __CUDA_ARCH__
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
#else
  return {static_cast<uint16_t>(rounded_to_bf16(x) >> 16)};
#endif
}

LITFAST_MATH f16 narrow(f16, float x) {
  f16 result;
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#else
  const uint32_t word = bits_as<uint32_t>(x), size = word & 0x7FFFFFFFu;
  const uint32_t normal = (size - (112u << 23) + 0xFFFu + ((size >> 13) & 1u)) >> 13;  // up to inf; rebias
  // Adding 0.5 leaves the multiple of 2^-24 that is nearest in the low bits.
  const uint32_t denormal = bits_as<uint32_t>(bits_as<float>(size) + 0.5f) - bits_as<uint32_t>(0.5f);
  const uint32_t small = size < (113u << 23) ? denormal : normal < 0x7C00u ? normal : 0x7C00u;
  result.bits = static_cast<uint16_t>(((word >> 16) & 0x8000u) | (x != x ? 0x7E00u : small));
#endif
  return result;
}

// e^x for x <= 0 or NaN, within about 1 ulp: x = n ln2 + r, e^r by a polynomial, 2^n by the exponent bits.
// Below the normal range the result is 0. A GPU has 2^x as one instruction, within 2 ulp, with the same edges.
LITFAST_MATH float exp_nonpositive(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * 1.44269504088896341f));
  return result;
#else
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
  const float shifted = x * 1.44269504088896341f + kRound, n = shifted - kRound;
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const uint32_t exponent = bits_as<uint32_t>(shifted) - bits_as<uint32_t>(kRound) + 127u;
  return x < -87.0f ? 0.0f : p * bits_as<float>(exponent << 23);
#endif
}

LITFAST_MATH double exp_nonpositive(double x) { return exp(x); }

template <Penalty penalty, class A>
LITFAST_MATH A penalty_value(A d) {
  if (penalty == Penalty::l2) return d * d;
  const A size = d < 0 ? -d : d;
  if (penalty == Penalty::l1) return size;
  return size < 1 ? A(0.5) * d * d : size - A(0.5);
}

template <Penalty penalty, class A>
LITFAST_MATH A penalty_slope(A d) {
  if (penalty == Penalty::l2) return 2 * d;
  const A sign = A(d > 0) - A(d < 0);
  if (penalty == Penalty::l1) return sign;
  return d >= 1 || d <= -1 ? sign : d;
}

// Whether torch.argmax prefers x to `other`: the larger, the first of equals, and a NaN above everything.
template <class A>
LITFAST_MATH bool outranks(A x, A other, bool x_comes_first) {
  if (other != other) return x != x && x_comes_first;
  return !(x <= other) || (x == other && x_comes_first);
}

}  // namespace LITFAST_ISA
}  // namespace litfast
