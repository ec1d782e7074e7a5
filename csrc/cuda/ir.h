// The IR loss on the device: every block takes tiles of a section, keeps several 16-byte loads in flight, writes the gradient.
#pragma once

#include "device.h"

namespace litfast {
namespace cuda {

// Vectors of a thread in flight: 8 loads of 16 bytes where both dtypes have one size, 6 otherwise.
template <class Types>
constexpr int kFlight = sizeof(typename Types::S) == sizeof(typename Types::T) ? 4 : 2;

// Where a thread stands in a section.
struct Place {
  unsigned blocks, thread;
  int64_t block;  // counted from the one whose turn it is
};

template <Penalty penalty, class Types>
__device__ __forceinline__ float add_vector(const Span<Types>& span, int64_t vector, float factor,
                            const Vector<typename Types::S, kVector<Types>>& s,
                            const Vector<typename Types::T, kVector<Types>>& t) {
  using G = typename Types::G;
  Vector<G, kVector<Types>> gradient;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVector<Types>; ++i) {
    const float d = widen(s.get(i)) - widen(t.get(i));
    sum += penalty_value<penalty>(d);
    gradient.set(i, narrow(G{}, factor * penalty_slope<penalty>(d)));
  }
  if (span.g) store(span.g + span.at(vector), gradient);
  return sum;
}

// The sum of the penalties of this thread's elements, when the block is number `block` of all.
template <Penalty penalty, class Types>
__device__ __forceinline__ double add_span(const Span<Types>& span, float factor, Place place) {
  constexpr int N = kVector<Types>, U = kFlight<Types>;
  // Opaque, or the compiler computes what all the loops over dtypes and penalties may need ahead of choosing one of them,
  // in more registers than there are.
  asm volatile("" : "+r"(place.blocks), "+r"(place.thread), "+l"(place.block));
  const int64_t stride = int64_t(place.blocks) * kThreads;
  double sum = 0;
  for (int64_t tile = place.block * kThreads * U; tile < span.vectors; tile += stride * U) {
    // Zeros: what is written on one path only would need its register from the start of the kernel on.
    Vector<typename Types::S, N> s[U] = {};
    Vector<typename Types::T, N> t[U] = {};
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int64_t vector = tile + u * kThreads + place.thread;
      if (vector >= span.vectors) continue;
      s[u] = load<typename Types::S, N>(span.s + span.at(vector));
      t[u] = load<typename Types::T, N>(span.t + span.at(vector));
    }
    float part = 0;
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int64_t vector = tile + u * kThreads + place.thread;
      if (vector < span.vectors) part += add_vector<penalty>(span, vector, factor, s[u], t[u]);
    }
    sum += part;
  }
  for (int64_t i = place.block * kThreads + place.thread; i < span.singles; i += stride) {
    const int64_t at = span.single(i);
    const float d = widen(span.s[at]) - widen(span.t[at]);
    sum += penalty_value<penalty>(d);
    if (span.g) span.g[at] = narrow(typename Types::G{}, factor * penalty_slope<penalty>(d));
  }
  return sum;
}

__device__ __forceinline__ double add_section(const Section& section, Penalty penalty, float factor, const Place& place) {
  return with_fp32_types(section.student_dtype, section.teacher_dtype, [&](auto types) {
    const Span<decltype(types)> span(section.student, section.teacher, section.gradient, 0, section.n);
    switch (penalty) {
      case Penalty::l1: return add_span<Penalty::l1>(span, factor, place);
      case Penalty::smooth_l1: return add_span<Penalty::smooth_l1>(span, factor, place);
      default: return add_span<Penalty::l2>(span, factor, place);
    }
  });
}

// All sections of the launch; each block writes its share of every section's sum.
__device__ __forceinline__ void run_sections(const Launch& launch, Shared& shared) {
  for (int i = 0; i < launch.S; ++i) {
    const Section& section = launch.sections[i];
    const double factor = shared.scale * (1 - shared.beta) * section.weight_of_element;
    const Place place{gridDim.x, threadIdx.x, turn_of_block(section.turn)};
    const double sum = reduce_block(add_section(section, launch.penalty, float(factor), place), shared.scratch, Add{});
    if (threadIdx.x == 0) launch.section_sums[i * int64_t(gridDim.x) + blockIdx.x] = sum;
  }
}

}  // namespace cuda
}  // namespace litfast
