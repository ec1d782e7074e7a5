// Knowledge distillation of a run of rows: three softmaxes (student at 1 and tau, teacher at tau) and the gradient while
// the row stays in the cache.
#include "../kd.h"

#include "../kd_math.h"
#include "../typed.h"
#include "lanes.h"

namespace litfast {
namespace LITFAST_ISA {
namespace {

template <class X>
auto row_max(const X* x, int64_t K) {
  using A = decltype(widen(X{}));
  A lanes[kLanes], max = -INFINITY;
  for (int j = 0; j < kLanes; ++j) lanes[j] = max;
  int64_t k = 0;
  for (; k + kLanes <= K; k += kLanes) {
    const Run<X> run(x + k);
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) lanes[j] = run[j] > lanes[j] ? run[j] : lanes[j];  // skips a NaN; the sums find it
  }
  for (int j = 0; j < kLanes; ++j) max = lanes[j] > max ? lanes[j] : max;
  for (; k < K; ++k) max = widen(x[k]) > max ? widen(x[k]) : max;
  return max;
}

// The powers of kLanes classes, from the sums to the gradient.
template <class A>
struct Kept {
  A student[kLanes], student_tau[kLanes], teacher_tau[kLanes];
};
constexpr int64_t kKept = 4096;  // classes of a row whose powers are kept; above, they are computed twice

// One row on its way through the three passes: maxima, sums, gradient. `keep`: the third reads what the second kept.
template <class Types, bool keep>
class Row {
  using S = typename Types::S;
  using T = typename Types::T;
  using A = typename Types::A;
  using G = typename Types::G;

 public:
  Row(const Kd& kd, int64_t b, Kept<A>* kept)
      : kd_(kd),
        b_(b),
        K_(kd.K),
        target_(kd.target ? kd.target[b] : -1),
        s_(static_cast<const S*>(kd.student) + b * kd.K),
        t_(static_cast<const T*>(kd.teacher) + b * kd.K),
        per_tau_(A(1 / kd.tau)),
        kept_(kept) {}

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
  struct Sums {
    A student[kLanes] = {}, student_tau[kLanes] = {}, teacher_tau[kLanes] = {}, cross[kLanes] = {}, shift[kLanes] = {};
  };

  template <bool kl>
  RowSums add_up() const {
    RowSums total;
    for (int64_t k = 0; k < K_;) {
      const int64_t stop = K_ - k < kPiece ? K_ : k + kPiece;
      Sums sums;
      for (; k + kLanes <= stop; k += kLanes) add<kl>(sums, Run<S>(s_ + k), Run<T>(t_ + k), kLanes, kept(k));
      if (k < stop) add<kl>(sums, Tail<S>(s_ + k, stop - k), Tail<T>(t_ + k, stop - k), int(stop - k), kept(k));
      k = stop;
      total.student += LITFAST_ISA::add_up(sums.student);
      total.student_tau += LITFAST_ISA::add_up(sums.student_tau);
      total.teacher_tau += LITFAST_ISA::add_up(sums.teacher_tau);
      total.cross += LITFAST_ISA::add_up(sums.cross);
      total.shift += LITFAST_ISA::add_up(sums.shift);
    }
    return total;
  }

  // Keeps the powers, adds the first n lanes.
  template <bool kl, class Student, class Teacher>
  LITFAST_MATH void add(Sums& sums, const Student& s, const Teacher& t, int n, Kept<A>& kept) const {
    const A s_max = s_max_, t_max = t_max_, per_tau = per_tau_;
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) {
      const A x = s[j] - s_max, y = t[j] - t_max;
      const Powers<A> e = powers(x, y, per_tau);
      kept.student[j] = e.student;
      kept.student_tau[j] = e.student_tau;
      kept.teacher_tau[j] = e.teacher_tau;
      sums.student[j] += j < n ? e.student : 0;
      sums.student_tau[j] += j < n ? e.student_tau : 0;
      sums.teacher_tau[j] += j < n ? e.teacher_tau : 0;
      sums.cross[j] += j < n ? e.teacher_tau * ((kl ? y - x : x) * per_tau) : 0;
      sums.shift[j] += j < n ? x : 0;
    }
  }

  Kept<A>& kept(int64_t k) const { return kept_[keep ? k / kLanes : 0]; }

  double target_x() const { return double(widen(s_[target_])) - s_max_; }

  // Whether torch.argmax finds the target: without a NaN, whether it is the first of the largest.
  bool hit() const {
    const A mine = widen(s_[target_]);
    const bool strange = sums_.student != sums_.student;  // a NaN or an infinity
    if (!strange && mine != s_max_) return false;
    const int64_t target = target_;
    const S* s = s_;
    int beaten = 0;
    if (strange)
      for (int64_t k = 0; k < K_; ++k) beaten |= k != target && outranks<A>(widen(s[k]), mine, k < target);
    else
#pragma omp simd reduction(| : beaten)
      for (int64_t k = 0; k < target; ++k) beaten |= widen(s[k]) == mine;
    return !beaten;
  }

  void write_gradient() const {
    const double hard = kd_.target ? kd_.alpha * kd_.factor : 0, soft = (1 - kd_.alpha) * kd_.tau * kd_.factor;
    const Slopes<A> by = slopes<A>(sums_, hard, soft, kd_.label_smoothing, K_);
    G* g = static_cast<G*>(kd_.gradient) + b_ * K_;
    int64_t k = 0;
    for (; k + kLanes <= K_; k += kLanes) write(g + k, by, Run<S>(s_ + k), Run<T>(t_ + k), kept(k));
    if (k < K_) {
      G last[kLanes];
      write(last, by, Tail<S>(s_ + k, K_ - k), Tail<T>(t_ + k, K_ - k), kept(k));
      memcpy(g + k, last, sizeof(G) * (K_ - k));
    }
    if (!kd_.target) return;
    const double y = double(widen(t_[target_])) - t_max_;
    g[target_] = narrow(G{}, A(target_slope(sums_, target_x(), y, hard, soft, kd_.tau, kd_.label_smoothing, K_)));
  }

  template <class Student, class Teacher>
  LITFAST_MATH void write(G* g, const Slopes<A>& by, const Student& s, const Teacher& t, Kept<A>& kept) const {
    const A s_max = s_max_, t_max = t_max_, per_tau = per_tau_;
#pragma omp simd
    for (int j = 0; j < (keep ? 0 : kLanes); ++j) {
      const Powers<A> e = powers(A(s[j] - s_max), A(t[j] - t_max), per_tau);
      kept.student[j] = e.student;
      kept.student_tau[j] = e.student_tau;
      kept.teacher_tau[j] = e.teacher_tau;
    }
#pragma omp simd
    for (int j = 0; j < kLanes; ++j)
      g[j] = narrow(G{}, slope(by, Powers<A>{kept.student[j], kept.student_tau[j], kept.teacher_tau[j]}));
  }

  const Kd& kd_;
  const int64_t b_, K_, target_;
  const S* s_;
  const T* t_;
  const A per_tau_;
  A s_max_ = 0, t_max_ = 0;
  RowSums sums_;
  Kept<A>* kept_;
};

template <class G>
void ignore_row(const Kd& kd, int64_t b) {
  if (kd.rows) kd.rows[b] = 0;
  if (kd.gradient) memset(static_cast<G*>(kd.gradient) + b * kd.K, 0, sizeof(G) * kd.K);
}

template <class Types, bool keep>
KdSums rows(const Kd& kd, int64_t begin, int64_t end) {
  KdSums sums;
  Kept<typename Types::A> kept[keep ? kKept / kLanes : 1];
  for (int64_t b = begin; b < end; ++b) {
    if (kd.target && kd.target[b] == kd.ignore_index)
      ignore_row<typename Types::G>(kd, b);
    else
      Row<Types, keep>(kd, b, kept).run(sums);
  }
  return sums;
}

}  // namespace

KdSums kd_rows(const Kd& kd, int64_t begin, int64_t end) {
  return with_types(kd.student_dtype, kd.teacher_dtype, [&](auto types) {
    using Types = decltype(types);
    return kd.K <= kKept ? rows<Types, true>(kd, begin, end) : rows<Types, false>(kd, begin, end);
  });
}

}  // namespace LITFAST_ISA
}  // namespace litfast
