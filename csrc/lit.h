// What the fused LIT loss takes: every section and the logits in one call. `ir` alone has no logits, `kd` alone no section.
#pragma once

#include "ir.h"
#include "kd.h"

namespace litfast {

struct Lit {
  const IrSection* sections;  // [S]
  int64_t S;
  Penalty penalty;
  const Kd* kd;  // null: no logits
};

struct LitSums {
  double* ir;  // [S] sum of each section's penalties
  KdSums kd;
};

}  // namespace litfast
