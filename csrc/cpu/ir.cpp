// IR loss of a run of elements: reads student and teacher, writes the gradient, in one pass.
// No template of the standard library here: its weak symbols would mix instruction sets.
#include "../ir.h"

#include "typed.h"

namespace litfast {
namespace LITFAST_ISA {
namespace {

template <Penalty penalty, class Types>
double block(const IrSection& section, int64_t begin, int64_t count) {
  using S = typename Types::S;
  using A = typename Types::A;
  const S* s = static_cast<const S*>(section.student) + begin;
  const typename Types::T* t = static_cast<const typename Types::T*>(section.teacher) + begin;
  A sum = 0;
  if (!section.gradient) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += penalty_value<penalty>(A(widen(s[i]) - widen(t[i])));
    return sum;
  }
  using G = typename Types::G;
  G* g = static_cast<G*>(section.gradient) + begin;
  const A factor = A(section.factor);
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    const A d = widen(s[i]) - widen(t[i]);
    sum += penalty_value<penalty>(d);
    g[i] = narrow(G{}, factor * penalty_slope<penalty>(d));
  }
  return sum;
}

template <Penalty penalty>
double elements(const IrSection& section, int64_t begin, int64_t end) {
  return with_types(section.student_dtype, section.teacher_dtype, [&](auto types) {
    double sum = 0;
    for (int64_t i = begin; i < end; i += kBlock)
      sum += block<penalty, decltype(types)>(section, i, end - i < kBlock ? end - i : kBlock);
    return sum;
  });
}

}  // namespace

double ir_elements(const IrSection& section, Penalty penalty, int64_t begin, int64_t end) {
  switch (penalty) {
    case Penalty::l1: return elements<Penalty::l1>(section, begin, end);
    case Penalty::smooth_l1: return elements<Penalty::smooth_l1>(section, begin, end);
    default: return elements<Penalty::l2>(section, begin, end);
  }
}

}  // namespace LITFAST_ISA
}  // namespace litfast
