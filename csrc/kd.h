// What knowledge distillation on logits takes, and the sums that it gives.
#pragma once

#include "math.h"

namespace litfast {

struct Kd {
  const void* student;    // [B, K] contiguous
  const void* teacher;    // [B, K] contiguous
  const int64_t* target;  // [B]; null: no hard term, every row is valid
  void* gradient;         // [B, K] the student's dtype, but f32 for f16; null: not wanted
  double* rows;           // [B] the loss of each row; null: not wanted
  int64_t B, K;
  Dtype student_dtype, teacher_dtype;  // f64 only with f64
  int64_t ignore_index;
  double alpha, tau, label_smoothing;
  double factor;  // d total / d (loss of a valid row)
  bool kl;        // soft term: KL instead of CE
};

struct KdSums {
  double soft = 0;  // with tau^2
  double hard = 0;
  int64_t correct = 0;
};

}  // namespace litfast
