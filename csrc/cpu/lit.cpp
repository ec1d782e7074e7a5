// The driver: cuts sections and rows into chunks, runs them on torch's threads, adds the chunks up in a fixed order.
#include "kernels.h"

namespace litfast {
namespace {

struct Chunk {
  int64_t section;  // -1: rows of the logits
  int64_t begin, end;
};

struct Partial {
  double ir = 0;
  KdSums kd;
};

void cut(std::vector<Chunk>& chunks, int64_t section, int64_t size, int64_t step) {
  for (int64_t i = 0; i < size; i += step) chunks.push_back({section, i, size - i < step ? size : i + step});
}

}  // namespace

std::vector<Kernels> runnable_kernels() {
  std::vector<Kernels> found;
#ifdef LITFAST_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back(avx512::kernels("avx512"));
  if (avx2) found.push_back(avx2::kernels("avx2"));
#endif
  found.push_back(baseline::kernels("baseline"));
  return found;
}

TargetScan scan_target(const int64_t* target, int64_t B, int64_t K, int64_t ignore_index) {
  TargetScan scan;
  for (int64_t b = 0; b < B; ++b) {
    if (target[b] == ignore_index) continue;
    ++scan.valid;
    if (scan.bad_row < 0 && (target[b] < 0 || target[b] >= K)) scan.bad_row = b;
  }
  return scan;
}

void lit_cpu(const Lit& lit, const Kernels& kernels, int threads, LitSums& sums) {
  std::vector<Chunk> chunks;
  if (lit.kd) cut(chunks, -1, lit.kd->B, lit.kd->K < kChunk ? kChunk / lit.kd->K : 1);
  for (int64_t i = 0; i < lit.S; ++i) cut(chunks, i, lit.sections[i].n, kChunk);

  const int64_t count = static_cast<int64_t>(chunks.size());
  std::vector<Partial> partials(chunks.size());
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (count > 1 && threads > 1)
  for (int64_t c = 0; c < count; ++c) {
    const Chunk& chunk = chunks[c];
    if (chunk.section < 0)
      partials[c].kd = kernels.kd(*lit.kd, chunk.begin, chunk.end);
    else
      partials[c].ir = kernels.ir(lit.sections[chunk.section], lit.penalty, chunk.begin, chunk.end);
  }

  for (int64_t c = 0; c < count; ++c) {
    if (chunks[c].section >= 0) sums.ir[chunks[c].section] += partials[c].ir;
    sums.kd.soft += partials[c].kd.soft;
    sums.kd.hard += partials[c].kd.hard;
    sums.kd.correct += partials[c].kd.correct;
  }
}

}  // namespace litfast
