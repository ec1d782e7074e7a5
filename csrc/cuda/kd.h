// Knowledge distillation on the device: several rows a warp, a block a row, or the parts of a row shared out over blocks.
#pragma once

#include "row.h"

namespace litfast {
namespace cuda {

constexpr int kLaneElements = 8;        // of a thread with RowPlan::lanes
constexpr int64_t kCountChunk = 8192;  // targets that a block counts in one go

// What a block needs while it works on rows.
struct KdRun {
  const Logits& logits;
  Counters& counters;
  Shared& shared;
  KdPartial* kd_sums;
};

// The next of a sequence of tasks that all blocks share, the same for every thread of the block.
__device__ __forceinline__ unsigned claim(unsigned* counter, Shared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) shared.claimed = atomicAdd(counter, 1u);
  __syncthreads();
  return shared.claimed;
}

__device__ __forceinline__ int64_t count_chunk(const KdRun& run, int64_t chunk) {
  const int64_t begin = chunk * kCountChunk, end = min(begin + kCountChunk, run.logits.B);
  int64_t valid = 0;
  for (int64_t b = begin + threadIdx.x; b < end; b += kThreads)
    valid += __ldg(run.logits.target + b) != run.logits.ignore_index;
  return reduce_block(valid, run.shared.scratch, Add{});
}

// What the mean divides by. Few targets are counted by every block for itself; many are shared out, and then a block
// waits only for chunks that others have claimed already, so it does not matter how many blocks run at a time.
__device__ __forceinline__ int64_t find_divisor(const KdRun& run) {
  const Logits& logits = run.logits;
  if (!logits.mean) return 1;
  if (!logits.target) return logits.B;
  const unsigned chunks = unsigned((logits.B + kCountChunk - 1) / kCountChunk);
  if (chunks == 1) return max(count_chunk(run, 0), int64_t(1));
  for (unsigned chunk; (chunk = claim(&run.counters.chunk, run.shared)) < chunks;) {
    const int64_t valid = count_chunk(run, chunk);
    if (threadIdx.x) continue;
    atomicAdd(&run.counters.valid, static_cast<unsigned long long>(valid));
    __threadfence();
    atomicAdd(&run.counters.counted, 1u);
  }
  if (threadIdx.x == 0) wait_for(&run.counters.counted, chunks);
  __syncthreads();
  return max(int64_t(read_fresh(&run.counters.valid)), int64_t(1));
}

__device__ __forceinline__ void find_factor(const KdRun& run) {
  const double factor = run.shared.scale * run.shared.beta / find_divisor(run);
  if (threadIdx.x == 0) run.shared.factor = factor;
  __syncthreads();
}

// -inf where the row has no such class.
template <class X>
__device__ __forceinline__ void load_lane(const void* logits, int64_t row, int64_t K, int lane, int lanes,
                          float (&out)[kLaneElements]) {
#pragma unroll
  for (int j = 0; j < kLaneElements; ++j) {
    const int k = lane + j * lanes;
    out[j] = k < K ? widen(static_cast<const X*>(logits)[row * K + k]) : -INFINITY;
  }
}

__device__ __forceinline__ void load_lane(const void* logits, Dtype dtype, int64_t row, int64_t K, int lane, int lanes,
                                 float (&out)[kLaneElements]) {
  switch (dtype) {
    case Dtype::bf16: return load_lane<bf16>(logits, row, K, lane, lanes, out);
    case Dtype::f16: return load_lane<f16>(logits, row, K, lane, lanes, out);
    default: return load_lane<float>(logits, row, K, lane, lanes, out);
  }
}

// `lanes` threads on one row, its logits in their registers. All threads come here, also when there is no row b.
__device__ __forceinline__ void run_lanes(const KdRun& run, int64_t b) {
  const Logits& logits = run.logits;
  const bool exists = b < logits.B;
  const int lanes = logits.lanes, lane = threadIdx.x % lanes, K = int(logits.K);
  const Row row = read_row(logits, exists ? b : 0);
  float s[kLaneElements], t[kLaneElements];
  load_lane(logits.student, logits.student_dtype, row.b, K, lane, lanes, s);
  load_lane(logits.teacher, logits.teacher_dtype, row.b, K, lane, lanes, t);
  Maxima maxima;
#pragma unroll
  for (int j = 0; j < kLaneElements; ++j)
    if (lane + j * lanes < K) maxima.add(s[j], t[j], row.student, lane + j * lanes, int(row.target));
  maxima = reduce_lanes(maxima, lanes, Higher{});
  FewSums few;
#pragma unroll
  for (int j = 0; j < kLaneElements; ++j)
    if (lane + j * lanes < K) few.add(s[j] - maxima.student, t[j] - maxima.teacher, run.shared.per_tau, logits.kl);
  const RowSums sums = reduce_lanes(few.wide(), lanes, Add{});
  if (logits.gradient && exists) {
    const Weights weights(logits, run.shared, row);
    const auto by = slopes<float>(sums, weights.hard, weights.soft, logits.label_smoothing, K);
#pragma unroll
    for (int j = 0; j < kLaneElements; ++j) {
      const int k = lane + j * lanes;
      const float g = row.valid ? slope(by, powers(s[j] - maxima.student, t[j] - maxima.teacher, run.shared.per_tau)) : 0;
      if (k < K) store_gradient(logits, b * K + k, g);
    }
    if (row.target >= 0 && row.target % lanes == lane)
      store_target_slope(logits, run.shared, row, sums, maxima, weights);
  }
  KdPartial mine{};
  if (exists && lane == 0) mine = row_losses(logits, run.shared, row, sums, maxima);
  mine = reduce_lanes(mine, 32, Add{});
  KdPartial& warp = run.shared.warps[threadIdx.x / 32];
  if (threadIdx.x % 32 == 0) warp = Add{}(warp, mine);
}

// The gradient of a part of a row, `begin` to `begin + n`.
__device__ __forceinline__ void write_part(const KdRun& run, const Row& row, int64_t begin, int64_t n, const Maxima& maxima,
                                  const RowSums& sums, bool staged) {
  const Logits& logits = run.logits;
  if (!logits.gradient) return;
  if (!row.valid) {
    for (int64_t i = threadIdx.x; i < n; i += kThreads) store_gradient(logits, row.b * logits.K + begin + i, 0);
    return;
  }
  const Weights weights(logits, run.shared, row);
  const auto by = slopes<float>(sums, weights.hard, weights.soft, logits.label_smoothing, logits.K);
  with_fp32_types(logits.student_dtype, logits.teacher_dtype, [&](auto types) {
    const Span<decltype(types)> span(logits.student, logits.teacher, logits.gradient, row.b * logits.K + begin, n);
    write_gradient(span, logits.part_size, staged, maxima, by, run.shared.per_tau);
  });
  __syncthreads();  // the target's element has been written like any other; now it gets its own value
  if (threadIdx.x == 32 && begin <= row.target && row.target < begin + n)
    store_target_slope(logits, run.shared, row, sums, maxima, weights);
}

__device__ __forceinline__ Maxima part_maxima(const KdRun& run, const Row& row, int64_t begin, int64_t n) {
  const Logits& logits = run.logits;
  const Maxima mine = with_fp32_types(logits.student_dtype, logits.teacher_dtype, [&](auto types) {
    const Span<decltype(types)> span(logits.student, logits.teacher, logits.gradient, row.b * logits.K + begin, n);
    return find_maxima(span, logits.part_size, row, begin);
  });
  return reduce_block(mine, run.shared.scratch, Higher{});
}

__device__ __forceinline__ RowSums part_sums(const KdRun& run, const Row& row, int64_t begin, int64_t n, const Maxima& maxima) {
  const Logits& logits = run.logits;
  const RowSums mine = with_fp32_types(logits.student_dtype, logits.teacher_dtype, [&](auto types) {
    const Span<decltype(types)> span(logits.student, logits.teacher, logits.gradient, row.b * logits.K + begin, n);
    return add_up(span, logits.part_size, maxima, run.shared.per_tau, logits.kl);
  });
  return reduce_block(mine, run.shared.scratch, Add{});
}

// A whole row, in shared memory from its first pass to its last.
__device__ __forceinline__ void run_block(const KdRun& run, int64_t b) {
  const Row row = read_row(run.logits, b);
  Maxima maxima;
  RowSums sums;
  if (row.valid) {
    maxima = part_maxima(run, row, 0, run.logits.K);
    sums = part_sums(run, row, 0, run.logits.K, maxima);
  }
  write_part(run, row, 0, run.logits.K, maxima, sums, true);
  if (threadIdx.x == 0) run.shared.warps[0] = Add{}(run.shared.warps[0], row_losses(run.logits, run.shared, row, sums, maxima));
}

}  // namespace cuda
}  // namespace litfast
