// IR loss of a run of elements: reads student and teacher, writes the gradient, in one pass.
// No template of the standard library here: its weak symbols would mix instruction sets.
#include "../ir.h"

#include "../typed.h"

namespace litfast {
namespace LITFAST_ISA {
namespace {

template <Penalty penalty, class Types>
double elements(const IrSection& section, int64_t begin, int64_t end) {
  using A = typename Types::A;
  using G = typename Types::G;
  const auto* s = static_cast<const typename Types::S*>(section.student);
  const auto* t = static_cast<const typename Types::T*>(section.teacher);
  auto* g = static_cast<G*>(section.gradient);
  const A factor = A(section.factor);
  double sum = 0;  // memory is the limit: adding up in double costs no time
  if (!g) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += penalty_value<penalty>(A(widen(s[i]) - widen(t[i])));
    return sum;
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t i = begin; i < end; ++i) {
    const A d = widen(s[i]) - widen(t[i]);
    sum += penalty_value<penalty>(d);
    g[i] = narrow(G{}, factor * penalty_slope<penalty>(d));
  }
  return sum;
}

template <Penalty penalty>
double typed_elements(const IrSection& section, int64_t begin, int64_t end) {
  return with_types(section.student_dtype, section.teacher_dtype, [&](auto types) {
    // A double has no wider type to add it up in: short pieces keep the rounding of the sum small.
    const int64_t piece = sizeof(typename decltype(types)::A) == sizeof(double) ? 128 : end - begin;
    double sum = 0;
    for (int64_t i = begin; i < end; i += piece)
      sum += elements<penalty, decltype(types)>(section, i, end - i < piece ? end : i + piece);
    return sum;
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
