// The kernels of one instruction set, each set compiled in a namespace of its own, and the driver that runs them.
#pragma once

#include <vector>

#include "../augment.h"
#include "../lit.h"
#include "../low_rank.h"

namespace litfast {

struct Kernels {
  const char* isa;
  double (*ir)(const IrSection&, Penalty, int64_t begin, int64_t end);  // sum over elements begin <= i < end
  KdSums (*kd)(const Kd&, int64_t begin, int64_t end);                  // sums over rows begin <= b < end
  void (*low_rank_look_up)(const LookUp&, int64_t begin, int64_t end);  // of tokens begin <= t < end
  LowRankTile (*low_rank_tile)(bool fp64);
  void (*low_rank_pack)(const void* rows, int64_t n, int64_t K, int64_t first, void* panel, bool fp64);  // rows [n, K]
  // `work`: LowRankTile::rows * (N + d + 2 LowRankTile::columns) numbers
  void (*low_rank_score)(const Scores&, const LowRankPanels*, int64_t begin, int64_t rows, void* work);
};

#define LITFAST_DECLARE(isa)                                                                  \
  namespace isa {                                                                             \
  double ir_elements(const IrSection&, Penalty, int64_t, int64_t);                            \
  KdSums kd_rows(const Kd&, int64_t, int64_t);                                                \
  void low_rank_look_up(const LookUp&, int64_t, int64_t);                                     \
  LowRankTile low_rank_tile(bool);                                                            \
  void low_rank_pack(const void*, int64_t, int64_t, int64_t, void*, bool);                    \
  void low_rank_score(const Scores&, const LowRankPanels*, int64_t, int64_t, void*);          \
  inline Kernels kernels(const char* name) {                                                  \
    return {name,          ir_elements,   kd_rows,       low_rank_look_up,                    \
            low_rank_tile, low_rank_pack, low_rank_score};                                    \
  }                                                                                           \
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

constexpr int64_t kBadPlace = -2;  // a place outside 0..N-1

// Return the first id that is no word, or kBadPlace, and then write nothing; else -1.
int64_t look_up_cpu(const LookUp& look_up, const Kernels& kernels, int threads);
int64_t scores_cpu(const Scores& scores, const Kernels& kernels, int threads);

void columns_cpu(const Columns& columns, int threads);

// Returns the first sample whose index, top or left is out of range, and then writes nothing; else -1.
int64_t augment_cpu(const Augment& augment, int threads);

}  // namespace litfast
