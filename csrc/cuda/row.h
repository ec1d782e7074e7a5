// Rows of logits on the device: what a target says of a row, and the three passes over a part of it.
#pragma once

#include <cassert>

#include "device.h"

namespace litfast {
namespace cuda {

struct Row {
  int64_t b;
  int64_t target = -1;  // -1: no target, or none of the classes
  bool valid = true;    // it counts
  bool wrong = false;   // its target is no class: loss and gradient become NaN
  float student = NAN, teacher = NAN;  // the target's logits
};

__device__ __forceinline__ float logit(const void* logits, Dtype dtype, int64_t i) {
  switch (dtype) {
    case Dtype::bf16: return widen(static_cast<const bf16*>(logits)[i]);
    case Dtype::f16: return widen(static_cast<const f16*>(logits)[i]);
    default: return static_cast<const float*>(logits)[i];
  }
}

__device__ __forceinline__ Row read_row(const Logits& logits, int64_t b) {
  Row row{b};
  if (!logits.target) return row;
  const int64_t target = __ldg(logits.target + b);
  row.valid = target != logits.ignore_index;
  row.wrong = row.valid && (target < 0 || target >= logits.K);
  assert(!row.wrong);  // in a debug build the caller's mistake stops here
  if (!row.valid || row.wrong) return row;
  row.target = target;
  row.student = logit(logits.student, logits.student_dtype, b * logits.K + target);
  row.teacher = logit(logits.teacher, logits.teacher_dtype, b * logits.K + target);
  return row;
}

struct Maxima {
  float student = -INFINITY, teacher = -INFINITY;
  uint32_t outranked = 0;  // a class ranks above the target

  // `before`: how many classes from here on come before the target; the target itself is number `before`.
  __device__ __forceinline__ void add(float s, float t, float target, int k, int before) {
    student = fmaxf(student, s);  // a NaN is skipped here and found by the sums
    teacher = fmaxf(teacher, t);
    outranked |= k != before && outranks(s, target, k < before);
  }
};

struct Higher {
  __device__ Maxima operator()(const Maxima& a, const Maxima& b) const {
    return {fmaxf(a.student, b.student), fmaxf(a.teacher, b.teacher), a.outranked | b.outranked};
  }
};

// The weights of a row's terms in the gradient.
struct Weights {
  double hard, soft;

  __device__ Weights(const Logits& logits, const Shared& c, const Row& row)
      : hard(row.wrong ? NAN : logits.target ? c.alpha * c.factor : 0), soft((1 - c.alpha) * c.tau * c.factor) {}
};

// Sums in fp32 over a few elements, to be added up in double.
struct FewSums {
  float student = 0, student_tau = 0, teacher_tau = 0, cross = 0, shift = 0;

  __device__ void add(float x, float y, float per_tau, bool kl) {
    const float e = exp_nonpositive(y * per_tau);
    student += exp_nonpositive(x);
    student_tau += exp_nonpositive(x * per_tau);
    teacher_tau += e;
    cross += e * ((kl ? y - x : x) * per_tau);
    shift += x;
  }
  __device__ RowSums wide() const { return {student, student_tau, teacher_tau, cross, shift}; }
};

__device__ __forceinline__ KdPartial row_losses(const Logits& logits, const Shared& c, const Row& row, const RowSums& sums,
                                       const Maxima& maxima) {
  if (!row.valid) {
    if (logits.rows) logits.rows[row.b] = 0;
    return {};
  }
  const double soft = soft_term(sums, c.tau, logits.kl), x = double(row.student) - maxima.student;
  const double hard = logits.target ? hard_term(sums, x, logits.label_smoothing, logits.K) : 0;
  if (logits.rows) logits.rows[row.b] = float(c.scale * (c.alpha * hard + (1 - c.alpha) * soft));
  return {soft, hard, row.target >= 0 && !maxima.outranked, 1};
}

__device__ __forceinline__ void store_gradient(const Logits& logits, int64_t i, float value) {
  if (logits.student_dtype == Dtype::bf16)
    static_cast<bf16*>(logits.gradient)[i] = narrow(bf16{}, value);
  else
    static_cast<float*>(logits.gradient)[i] = value;
}

__device__ __forceinline__ void store_target_slope(const Logits& logits, const Shared& c, const Row& row, const RowSums& sums,
                                          const Maxima& maxima, const Weights& by) {
  const double x = double(row.student) - maxima.student, y = double(row.teacher) - maxima.teacher;
  const double g = target_slope(sums, x, y, by.hard, by.soft, c.tau, logits.label_smoothing, logits.K);
  store_gradient(logits, row.b * logits.K + row.target, float(g));
}

// Where the first pass leaves a part's vectors for the next ones. A thread reads back only what it has put there itself.
extern __shared__ uint4 kStage[];

template <class Types>
__device__ typename Types::S* student_stage() {
  return reinterpret_cast<typename Types::S*>(kStage);
}

template <class Types>
__device__ typename Types::T* teacher_stage(int64_t part_size) {
  return reinterpret_cast<typename Types::T*>(student_stage<Types>() + part_size);
}

template <class Types>
__device__ __forceinline__ Maxima find_maxima(const Span<Types>& span, int64_t part_size, const Row& row, int64_t begin) {
  // Clamped to a part's numbers.
  const int before = int(max(int64_t(-1), min(row.target - begin, int64_t(INT32_MAX))));
  constexpr int N = kVector<Types>;
  typename Types::S* s_stage = student_stage<Types>();
  typename Types::T* t_stage = teacher_stage<Types>(part_size);
  Maxima maxima;
#pragma unroll 4  // 8 loads in flight
  for (int v = threadIdx.x; v < int(span.vectors); v += kThreads) {
    const auto s = load<typename Types::S, N>(span.s + span.at(v));
    const auto t = load<typename Types::T, N>(span.t + span.at(v));
    store(s_stage + v * N, s);
    store(t_stage + v * N, t);
#pragma unroll
    for (int i = 0; i < N; ++i) maxima.add(widen(s.get(i)), widen(t.get(i)), row.student, span.at(v) + i, before);
  }
  for (int i = threadIdx.x; i < int(span.singles); i += kThreads) {
    const int at = int(span.single(i));
    maxima.add(widen(span.s[at]), widen(span.t[at]), row.student, at, before);
  }
  return maxima;
}

template <class Types>
__device__ __forceinline__ RowSums add_up(const Span<Types>& span, int64_t part_size, const Maxima& maxima, float per_tau, bool kl) {
  constexpr int N = kVector<Types>;
  const typename Types::S* s_stage = student_stage<Types>();
  const typename Types::T* t_stage = teacher_stage<Types>(part_size);
  RowSums sums;
  for (int v = threadIdx.x; v < int(span.vectors); v += kThreads) {
    const auto s = reload<typename Types::S, N>(s_stage + v * N);
    const auto t = reload<typename Types::T, N>(t_stage + v * N);
    FewSums few;
#pragma unroll
    for (int i = 0; i < N; ++i) few.add(widen(s.get(i)) - maxima.student, widen(t.get(i)) - maxima.teacher, per_tau, kl);
    sums = Add{}(sums, few.wide());
  }
  for (int i = threadIdx.x; i < int(span.singles); i += kThreads) {
    const int at = int(span.single(i));
    FewSums few;
    few.add(widen(span.s[at]) - maxima.student, widen(span.t[at]) - maxima.teacher, per_tau, kl);
    sums = Add{}(sums, few.wide());
  }
  return sums;
}

// From the stage or, when that holds something else by now, from global memory once more.
template <class Types>
__device__ __forceinline__ void write_gradient(const Span<Types>& span, int64_t part_size, bool staged, const Maxima& maxima,
                               const Slopes<float>& by, float per_tau) {
  constexpr int N = kVector<Types>;
  using G = typename Types::G;
  const typename Types::S* s_stage = student_stage<Types>();
  const typename Types::T* t_stage = teacher_stage<Types>(part_size);
  const auto at_logits = [&](float s, float t) {
    return narrow(G{}, slope(by, powers(s - maxima.student, t - maxima.teacher, per_tau)));
  };
#pragma unroll 2
  for (int v = threadIdx.x; v < int(span.vectors); v += kThreads) {
    Vector<typename Types::S, N> s;
    Vector<typename Types::T, N> t;
    if (staged) {
      s = reload<typename Types::S, N>(s_stage + v * N);
      t = reload<typename Types::T, N>(t_stage + v * N);
    } else {
      s = load<typename Types::S, N>(span.s + span.at(v));
      t = load<typename Types::T, N>(span.t + span.at(v));
    }
    Vector<G, N> g;
#pragma unroll
    for (int i = 0; i < N; ++i) g.set(i, at_logits(widen(s.get(i)), widen(t.get(i))));
    store(span.g + span.at(v), g);
  }
  for (int i = threadIdx.x; i < int(span.singles); i += kThreads) {
    const int at = int(span.single(i));
    span.g[at] = at_logits(widen(span.s[at]), widen(span.t[at]));
  }
}

}  // namespace cuda
}  // namespace litfast
