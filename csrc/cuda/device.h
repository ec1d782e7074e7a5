// What the device code is made of: 16-byte vectors, reductions in a fixed order, the argument struct read once.
#pragma once

#include "../kd_math.h"
#include "../typed.h"
#include "launch.h"

namespace litfast {
namespace cuda {

using namespace LITFAST_ISA;

// N elements as they lie in memory: halves stay packed in their words until they are used, which saves registers.
template <class X, int N>
struct Vector {
  static constexpr int kWords = N * sizeof(X) / 4;
  static_assert(kWords % 4 == 0, "whole loads of 16 bytes");
  uint32_t words[kWords];

  // i must be known at compile time, here and below.
  __device__ __forceinline__ X get(int i) const {
    if constexpr (sizeof(X) == 4)
      return bits_as<X>(words[i]);
    else
      return bits_as<X>(static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16)));
  }
  __device__ __forceinline__ void set(int i, X value) {
    if constexpr (sizeof(X) == 4)
      words[i] = bits_as<uint32_t>(value);
    else if (i % 2 == 0)
      words[i / 2] = bits_as<uint16_t>(value);
    else
      words[i / 2] |= static_cast<uint32_t>(bits_as<uint16_t>(value)) << 16;  // the even one comes first
  }
};

template <class X, int N, class Read>
__device__ __forceinline__ Vector<X, N> load_by(const X* from, Read read) {
  Vector<X, N> vector;
#pragma unroll
  for (int i = 0; i < Vector<X, N>::kWords; i += 4) {
    const uint4 four = read(reinterpret_cast<const uint4*>(from) + i / 4);
    vector.words[i] = four.x, vector.words[i + 1] = four.y, vector.words[i + 2] = four.z, vector.words[i + 3] = four.w;
  }
  return vector;
}

template <class X, int N>
__device__ __forceinline__ Vector<X, N> load(const X* from) {
  return load_by<X, N>(from, [](const uint4* word) { return __ldg(word); });
}

// From shared memory, where `store` has put it.
template <class X, int N>
__device__ __forceinline__ Vector<X, N> reload(const X* from) {
  return load_by<X, N>(from, [](const uint4* word) { return *word; });
}

template <class X, int N>
__device__ __forceinline__ void store(X* to, const Vector<X, N>& vector) {
#pragma unroll
  for (int i = 0; i < Vector<X, N>::kWords; i += 4)
    reinterpret_cast<uint4*>(to)[i / 4] =
        make_uint4(vector.words[i], vector.words[i + 1], vector.words[i + 2], vector.words[i + 3]);
}

__device__ __forceinline__ bool is_aligned(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

// Elements of a vector: 16 bytes of the smaller type.
template <class Types>
constexpr int kVector = sizeof(typename Types::S) == 4 && sizeof(typename Types::T) == 4 ? 4 : 8;

// A run of n elements: vectors where all three pointers can be aligned at once, single elements before and after.
template <class Types>
struct Span {
  static constexpr int N = kVector<Types>;
  const typename Types::S* s;
  const typename Types::T* t;
  typename Types::G* g;  // null: not wanted
  int64_t head = 0, vectors = 0, singles;

  __device__ Span(const void* student, const void* teacher, void* gradient, int64_t begin, int64_t n)
      : s(static_cast<const typename Types::S*>(student) + begin),
        t(static_cast<const typename Types::T*>(teacher) + begin),
        g(gradient ? static_cast<typename Types::G*>(gradient) + begin : nullptr),
        singles(n) {
    const int first = sizeof(*s) <= sizeof(*t) ? until_aligned(s) : until_aligned(t);
    if (n < first + N || !is_aligned(s + first) || !is_aligned(t + first) || (g && !is_aligned(g + first))) return;
    head = first;
    vectors = (n - first) / N;
    singles = n - vectors * N;
  }

  template <class X>
  __device__ static int until_aligned(const X* p) {
    return int((16 - (reinterpret_cast<uintptr_t>(p) & 15)) & 15) / int(sizeof(X));
  }

  __device__ int64_t at(int64_t vector) const { return head + vector * N; }
  __device__ int64_t single(int64_t i) const { return i < head ? i : i + vectors * N; }
};

template <class T>
__device__ T shuffle_xor(const T& value, int mask) {
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &value, sizeof value);
#pragma unroll
  for (int i = 0; i < int(sizeof words / 4); ++i) words[i] = __shfl_xor_sync(~0u, words[i], mask);
  T result;
  memcpy(&result, words, sizeof result);
  return result;
}

// In every one of `lanes` neighbouring threads the same bits: the order of the sum is a tree, and a + b is b + a.
template <class T, class Combine>
__device__ T reduce_lanes(T value, int lanes, Combine combine) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}

using Scratch = unsigned char[kWarps * 64];  // shared memory of a reduction, 16-byte aligned

// In every thread of the block the same bits. All threads must come here.
template <class T, class Combine>
__device__ T reduce_block(T value, Scratch& scratch, Combine combine) {
  static_assert(sizeof(T) <= 64, "a warp's share of the scratch");
  T* warps = reinterpret_cast<T*>(scratch);
  value = reduce_lanes(value, 32, combine);
  __syncthreads();  // the scratch may still be read by those who come from the previous reduction
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  T total = warps[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) total = combine(total, warps[i]);
  return total;
}

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
  __device__ RowSums operator()(const RowSums& a, const RowSums& b) const {
    return {a.student + b.student, a.student_tau + b.student_tau, a.teacher_tau + b.teacher_tau, a.cross + b.cross,
            a.shift + b.shift};
  }
  __device__ KdPartial operator()(const KdPartial& a, const KdPartial& b) const {
    return {a.soft + b.soft, a.hard + b.hard, a.correct + b.correct, a.valid + b.valid};
  }
};

// What another block has written before it raised a counter; past the L1, which keeps no watch over it.
template <class T>
__device__ T read_fresh(const T* from) {
  uint32_t words[sizeof(T) / 4];
#pragma unroll
  for (int i = 0; i < int(sizeof words / 4); ++i) words[i] = __ldcg(reinterpret_cast<const unsigned*>(from) + i);
  T result;
  memcpy(&result, words, sizeof result);
  return result;
}

// Only for what a running block is bound to do: a block that runs never waits before it has done what it has claimed.
__device__ __forceinline__ void wait_for(const unsigned* counter, unsigned value) {
  while (*static_cast<const volatile unsigned*>(counter) < value) __nanosleep(40);
  __threadfence();
}

// This block's number, counted from the block whose turn it is.
__device__ __forceinline__ int64_t turn_of_block(unsigned turn) {
  return blockIdx.x >= turn ? blockIdx.x - turn : blockIdx.x + gridDim.x - turn;
}

// What the threads of a block share. The coefficients are here because registers are what the kernel is short of.
struct Shared {
  alignas(16) Scratch scratch;
  double tau, alpha, beta, scale;
  double factor;  // d total / d (loss of a valid row)
  float per_tau;
  unsigned claimed;
  KdPartial warps[kWarps];  // what each warp has added up over its rows
};

// A barrier must follow.
__device__ __forceinline__ void read(const Coefficients& c, Shared& shared) {
  shared.tau = c.on_device ? c.on_device[0] : c.tau;
  shared.alpha = c.on_device ? c.on_device[1] : c.alpha;
  shared.beta = c.on_device ? c.on_device[2] : c.beta;
  shared.scale = c.on_device ? c.on_device[3] : c.scale;
  shared.per_tau = float(1 / shared.tau);
}

}  // namespace cuda
}  // namespace litfast
