// Maths of one row of knowledge distillation, from its sums to its losses and its gradient: one source for CPU and CUDA.
#pragma once

#include "math.h"

namespace litfast {
namespace LITFAST_ISA {

// x = s - max(s) and y = t - max(t), summed over the classes of a row.
struct RowSums {
  double student = 0;      // sum e^x
  double student_tau = 0;  // sum e^(x / tau)
  double teacher_tau = 0;  // sum e^(y / tau)
  double cross = 0;        // ce: sum e^(y / tau) x / tau; kl: sum e^(y / tau) (y - x) / tau
  double shift = 0;        // sum x
};

LITFAST_MATH double soft_term(const RowSums& sums, double tau, bool kl) {
  const double cross = sums.cross / sums.teacher_tau, lse = log(sums.student_tau);
  return tau * tau * (kl ? lse - log(sums.teacher_tau) + cross : lse - cross);
}

// x is the target's.
LITFAST_MATH double hard_term(const RowSums& sums, double x, double label_smoothing, int64_t K) {
  const double lse = log(sums.student), eps = label_smoothing;
  return eps == 0 ? lse - x : lse - (1 - eps) * x - eps * (sums.shift / K);
}

// What the gradient of a row weighs each softmax by. `hard` and `soft` weigh the terms: p_S(1) - q, q the smoothed one-hot
// target, and p_S(tau) - p_T(tau).
template <class A>
struct Slopes {
  A student, student_tau, teacher_tau, all;
};

template <class A>
LITFAST_MATH Slopes<A> slopes(const RowSums& sums, double hard, double soft, double label_smoothing, int64_t K) {
  return {A(hard / sums.student), A(soft / sums.student_tau), A(soft / sums.teacher_tau), A(hard * label_smoothing / K)};
}

// What a class adds to the three sums of exponentials.
template <class A>
struct Powers {
  A student, student_tau, teacher_tau;
};

template <class A>
LITFAST_MATH Powers<A> powers(A x, A y, A per_tau) {
  return {exp_nonpositive(x), exp_nonpositive(x * per_tau), exp_nonpositive(y * per_tau)};
}

// The gradient of a class that is not the target.
template <class A>
LITFAST_MATH A slope(const Slopes<A>& by, const Powers<A>& e) {
  return by.student_tau * e.student_tau - by.teacher_tau * e.teacher_tau + (by.student * e.student - by.all);
}

// The target's gradient, in double: p - q cancels where the student is sure.
LITFAST_MATH double target_slope(const RowSums& sums, double x, double y, double hard, double soft, double tau,
                                 double label_smoothing, int64_t K) {
  const double gap = exp(x / tau) / sums.student_tau - exp(y / tau) / sums.teacher_tau;
  const double q = 1 - label_smoothing + label_smoothing / K;
  return soft * gap + hard * (exp(x) / sums.student - q);
}

}  // namespace LITFAST_ISA
}  // namespace litfast
