// The drivers of the low-rank ops: shares of tokens, panels and rows for torch's threads.
#include <memory>

#include "kernels.h"

namespace litfast {
namespace {

constexpr int64_t kTokens = 16;  // worth a task

struct Panel {
  const void* rows;  // [n, K]
  int64_t n, K, first;
  char* at;
};

int64_t panels_of(int64_t n, int64_t width) { return (n + width - 1) / width; }

// The panels of a factor or a basis, to be written from `at` on; returns where they end.
char* plan(std::vector<Panel>& plans, const void* rows, int64_t n, int64_t K, int64_t width, int64_t size, char* at) {
  for (int64_t first = 0; first < n; first += width, at += K * width * size) plans.push_back({rows, n, K, first, at});
  return at;
}

bool is_place(const LowRank& table) {
  for (int64_t w = 0; w < table.N; ++w)
    if (table.place[w] < 0 || table.place[w] >= table.N) return false;
  return true;
}

template <class E>
void take(const Columns& columns, int64_t b) {
  const E* x = static_cast<const E*>(columns.x) + b * columns.N;
  E* out = static_cast<E*>(columns.out) + b * columns.M;
  for (int64_t j = 0; j < columns.M; ++j) out[j] = x[columns.index[j]];
}

}  // namespace

void columns_cpu(const Columns& columns, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && columns.B > 1)
  for (int64_t b = 0; b < columns.B; ++b) columns.size == 8 ? take<uint64_t>(columns, b) : take<uint32_t>(columns, b);
}

int64_t look_up_cpu(const LookUp& look_up, const Kernels& kernels, int threads) {
  if (!is_place(look_up.table)) return kBadPlace;
  for (int64_t t = 0; t < look_up.T; ++t)
    if (look_up.ids[t] < 0 || look_up.ids[t] >= look_up.table.N) return t;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1 && look_up.T > kTokens)
  for (int64_t t = 0; t < look_up.T; t += kTokens)
    kernels.low_rank_look_up(look_up, t, t + kTokens < look_up.T ? t + kTokens : look_up.T);
  return -1;
}

int64_t scores_cpu(const Scores& scores, const Kernels& kernels, int threads) {
  const LowRank& table = scores.table;
  if (!is_place(table)) return kBadPlace;
  const LowRankTile tile = kernels.low_rank_tile(table.fp64);
  const int64_t size = table.fp64 ? 8 : 4, width = tile.columns;
  int64_t room = 0;
  for (int64_t p = 0; p < table.P; ++p) {
    const LowRankBlock& block = table.blocks[p];
    room += panels_of(block.n, width) * width * block.r;
    if (block.basis) room += panels_of(block.r, width) * width * table.d;
  }
  // not a vector: nobody needs the zeros
  const std::unique_ptr<char[]> memory(new char[room * size]);
  std::vector<Panel> plans;
  std::vector<LowRankPanels> panels;
  char* at = memory.get();
  for (int64_t p = 0; p < table.P; ++p) {
    const LowRankBlock& block = table.blocks[p];
    char* const factor = at;
    char* const basis = plan(plans, block.factor, block.n, block.r, width, size, factor);
    at = block.basis ? plan(plans, block.basis, block.r, table.d, width, size, basis) : basis;
    panels.push_back({factor, basis});
  }
  const int64_t count = static_cast<int64_t>(plans.size()), work = tile.rows * (table.N + table.d + 2 * width) * size;
  const int64_t each = (scores.B + threads - 1) / threads, rows = each < tile.rows ? (each > 1 ? each : 1) : tile.rows;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < count; ++i)
      kernels.low_rank_pack(plans[i].rows, plans[i].n, plans[i].K, plans[i].first, plans[i].at, table.fp64);
    const std::unique_ptr<char[]> own(new char[work]);
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < scores.B; b += rows)
      kernels.low_rank_score(scores, panels.data(), b, scores.B - b < rows ? scores.B - b : rows, own.get());
  }
  return -1;
}

}  // namespace litfast
