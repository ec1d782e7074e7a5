// Knowledge distillation of a run of rows: three softmaxes (student at 1 and tau, teacher at tau) and the gradient while
// the row stays in the cache.
// No template of the standard library here: its weak symbols would mix instruction sets.
#include "../kd.h"

#include "../kd_math.h"
#include "../typed.h"

namespace litfast {
namespace LITFAST_ISA {
namespace {

template <class X>
auto row_max(const X* x, int64_t K) {
  using A = decltype(widen(X{}));
  A max = -INFINITY;
#pragma omp simd reduction(max : max)
  for (int64_t k = 0; k < K; ++k) {
    const A value = widen(x[k]);
    max = value > max ? value : max;  // a NaN is skipped here and found by the sums
  }
  return max;
}

// One row on its way through the three passes: maxima, sums, gradient.
template <class Types>
class Row {
  using S = typename Types::S;
  using T = typename Types::T;
  using A = typename Types::A;
  using G = typename Types::G;

 public:
  Row(const Kd& kd, int64_t b)
      : kd_(kd),
        b_(b),
        K_(kd.K),
        target_(kd.target ? kd.target[b] : -1),
        s_(static_cast<const S*>(kd.student) + b * kd.K),
        t_(static_cast<const T*>(kd.teacher) + b * kd.K),
        per_tau_(A(1 / kd.tau)) {}

  void run(KdSums& total) {
    s_max_ = row_max(s_, K_);
    t_max_ = row_max(t_, K_);
    sums_ = kd_.kl ? add_up<true>() : add_up<false>();
    const double soft = soft_term(sums_, kd_.tau, kd_.kl);
    const double hard = kd_.target ? hard_term(sums_, target_x(), kd_.label_smoothing, K_) : 0;
    total.soft += soft;
    total.hard += hard;
    total.correct += kd_.target ? hit() : 0;
    if (kd_.rows) kd_.rows[b_] = kd_.alpha * hard + (1 - kd_.alpha) * soft;
    if (kd_.gradient) write_gradient();
  }

 private:
  template <bool kl>
  RowSums add_up() const {
    const S* s = s_;
    const T* t = t_;
    const A s_max = s_max_, t_max = t_max_, per_tau = per_tau_;
    double student = 0, student_tau = 0, teacher_tau = 0, cross = 0, shift = 0;
#pragma omp simd reduction(+ : student, student_tau, teacher_tau, cross, shift)
    for (int64_t k = 0; k < K_; ++k) {
      const A x = widen(s[k]) - s_max, y = widen(t[k]) - t_max;
      const A e = exp_nonpositive(y * per_tau);
      student += exp_nonpositive(x);
      student_tau += exp_nonpositive(x * per_tau);
      teacher_tau += e;
      cross += e * ((kl ? y - x : x) * per_tau);
      shift += x;
    }
    return {student, student_tau, teacher_tau, cross, shift};
  }

  double target_x() const { return double(widen(s_[target_])) - s_max_; }

  // Without a NaN in the row only an equal maximum before the target can take its place.
  bool hit() const {
    const A mine = widen(s_[target_]);
    const bool has_nan = sums_.student != sums_.student;
    if (!has_nan && mine != s_max_) return false;
    const int64_t end = has_nan ? K_ : target_;
    for (int64_t k = 0; k < end; ++k)
      if (outranks<A>(widen(s_[k]), mine, k < target_)) return false;
    return true;
  }

  void write_gradient() const {
    const double hard = kd_.target ? kd_.alpha * kd_.factor : 0, soft = (1 - kd_.alpha) * kd_.tau * kd_.factor;
    const Slopes<A> by = slopes<A>(sums_, hard, soft, kd_.label_smoothing, K_);
    const S* s = s_;
    const T* t = t_;
    G* g = static_cast<G*>(kd_.gradient) + b_ * K_;
    const A s_max = s_max_, t_max = t_max_, per_tau = per_tau_;
#pragma omp simd
    for (int64_t k = 0; k < K_; ++k) g[k] = narrow(G{}, slope<A>(by, widen(s[k]) - s_max, widen(t[k]) - t_max, per_tau));
    if (!kd_.target) return;
    const double y = double(widen(t_[target_])) - t_max_;
    g[target_] = narrow(G{}, A(target_slope(sums_, target_x(), y, hard, soft, kd_.tau, kd_.label_smoothing, K_)));
  }

  const Kd& kd_;
  const int64_t b_, K_, target_;
  const S* s_;
  const T* t_;
  const A per_tau_;
  A s_max_ = 0, t_max_ = 0;
  RowSums sums_;
};

template <class G>
void ignore_row(const Kd& kd, int64_t b) {
  if (kd.rows) kd.rows[b] = 0;
  if (kd.gradient) memset(static_cast<G*>(kd.gradient) + b * kd.K, 0, sizeof(G) * kd.K);
}

}  // namespace

KdSums kd_rows(const Kd& kd, int64_t begin, int64_t end) {
  return with_types(kd.student_dtype, kd.teacher_dtype, [&](auto types) {
    KdSums sums;
    for (int64_t b = begin; b < end; ++b) {
      if (kd.target && kd.target[b] == kd.ignore_index)
        ignore_row<typename decltype(types)::G>(kd, b);
      else
        Row<decltype(types)>(kd, b).run(sums);
    }
    return sums;
  });
}

}  // namespace LITFAST_ISA
}  // namespace litfast
