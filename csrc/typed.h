// From run-time dtypes to compile-time types.
#pragma once

#include "math.h"

// What nvcc compiles calls these from the device only, and its lambdas do not exist on the host.
#ifdef __CUDACC__
#define LITFAST_DISPATCH __device__ __forceinline__
#else
#define LITFAST_DISPATCH LITFAST_MATH
#endif

namespace litfast {
namespace LITFAST_ISA {

// Half has too few exponents for a gradient that meets its loss scale only in backward; until then it is kept in fp32.
template <class S>
struct GradientOf {
  using type = S;
};
template <>
struct GradientOf<f16> {
  using type = float;
};

template <class Student, class Teacher, class Maths>
struct Types {
  using S = Student;
  using T = Teacher;
  using A = Maths;  // what the arithmetic runs in
  using G = typename GradientOf<Student>::type;  // what the gradient is stored in
};

template <class S, class F>
LITFAST_DISPATCH auto with_teacher(Dtype teacher, F&& run) {
  switch (teacher) {
    case Dtype::bf16: return run(Types<S, bf16, float>{});
    case Dtype::f16: return run(Types<S, f16, float>{});
    default: return run(Types<S, float, float>{});
  }
}

// Calls run(Types<...>{}) for dtypes that are computed in fp32: any but f64.
template <class F>
LITFAST_DISPATCH auto with_fp32_types(Dtype student, Dtype teacher, F&& run) {
  switch (student) {
    case Dtype::bf16: return with_teacher<bf16>(teacher, run);
    case Dtype::f16: return with_teacher<f16>(teacher, run);
    default: return with_teacher<float>(teacher, run);
  }
}

// Calls run(Types<...>{}) for the dtypes at hand. f64 comes with f64 only; the caller has checked that.
template <class F>
LITFAST_DISPATCH auto with_types(Dtype student, Dtype teacher, F&& run) {
  if (student == Dtype::f64) return run(Types<double, double, double>{});
  return with_fp32_types(student, teacher, run);
}

}  // namespace LITFAST_ISA
}  // namespace litfast
