// The kernels of one instruction set, each set compiled in a namespace of its own, and the driver that runs them.
#pragma once

#include <vector>

#include "../augment.h"
#include "../lit.h"

namespace litfast {

struct Kernels {
  const char* isa;
  double (*ir)(const IrSection&, Penalty, int64_t begin, int64_t end);  // sum over elements begin <= i < end
  KdSums (*kd)(const Kd&, int64_t begin, int64_t end);                  // sums over rows begin <= b < end
};

#define LITFAST_DECLARE(isa)                                       \
  namespace isa {                                                  \
  double ir_elements(const IrSection&, Penalty, int64_t, int64_t); \
  KdSums kd_rows(const Kd&, int64_t, int64_t);                     \
  }
LITFAST_DECLARE(baseline)
LITFAST_DECLARE(avx2)
LITFAST_DECLARE(avx512)
#undef LITFAST_DECLARE

// Elements that are summed in one piece: the order of summation depends on this, never on the thread count.
constexpr int64_t kChunk = 16384;

// What this build holds and this machine can run, the fastest first; never empty.
std::vector<Kernels> runnable_kernels();

// How many rows count, and the first row whose target is neither a class nor `ignore_index` (-1: none).
struct TargetScan {
  int64_t valid = 0, bad_row = -1;
};
TargetScan scan_target(const int64_t* target, int64_t B, int64_t K, int64_t ignore_index);

// The sums must come in as zeros.
void lit_cpu(const Lit& lit, const Kernels& kernels, int threads, LitSums& sums);

// Returns the first sample whose index, top or left is out of range, and then writes nothing; else -1.
int64_t augment_cpu(const Augment& augment, int threads);

}  // namespace litfast
