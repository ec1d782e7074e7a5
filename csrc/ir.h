// What the IR loss takes: one pair of intermediate representations.
#pragma once

#include "math.h"

namespace litfast {

struct IrSection {
  const void* student;  // [n] dense, any layout
  const void* teacher;  // [n] the student's layout
  void* gradient;       // [n] the student's layout and dtype, but f32 for f16; null: not wanted
  int64_t n;
  Dtype student_dtype, teacher_dtype;  // f64 only with f64
  double factor;                       // d total / d (sum of this section's penalties)
};

}  // namespace litfast
