// Rows too long for one block: cut into parts, which blocks claim one after the other. A part is read for its sums and,
// about one group of rows later, when L2 still holds it, once more for its gradient.
#pragma once

#include "kd.h"

namespace litfast {
namespace cuda {

struct Task {
  bool any;       // there is a task
  bool gradient;  // else: sums
  int64_t b;
  int part;
};

// The tasks in the order in which they are claimed: the sums of group 0, then for g = 0, 1, ... the sums of group g + 1 and
// the gradients of group g. So whoever waits for sums waits for blocks that run already.
__device__ __forceinline__ Task task_of(const Logits& logits, unsigned number) {
  const int64_t size = logits.group_rows * logits.parts, phase = number / size, unit = number % size;
  const bool gradient = phase > 0 && phase % 2 == 0;
  const int64_t group = gradient ? phase / 2 - 1 : (phase + 1) / 2;
  const int64_t groups = (logits.B + logits.group_rows - 1) / logits.group_rows;
  const int64_t b = group * logits.group_rows + unit / logits.parts;
  return {phase <= 2 * groups, gradient, b, int(unit % logits.parts)};
}

__device__ __forceinline__ int64_t part_length(const Logits& logits, int part) {
  return min(logits.part_size, logits.K - part * logits.part_size);
}

// A part may hold nothing but -inf; then x = s - 0 keeps its sums at 0 instead of NaN.
__device__ __forceinline__ float base(float maximum) { return maximum == -INFINITY ? 0 : maximum; }

__device__ __forceinline__ void sum_part(const KdRun& run, const Row& row, int part) {
  const Logits& logits = run.logits;
  const int64_t begin = part * logits.part_size, n = part_length(logits, part);
  const Maxima maxima = part_maxima(run, row, begin, n);
  const Maxima bases{base(maxima.student), base(maxima.teacher)};
  const RowSums sums = part_sums(run, row, begin, n, bases);
  if (threadIdx.x) return;
  logits.part_sums[row.b * logits.parts + part] = {
      maxima.student, maxima.teacher, sums.student, sums.student_tau, sums.teacher_tau, sums.cross, sums.shift,
      maxima.outranked};
  __threadfence();
  atomicAdd(&logits.parts_done[row.b], 1u);
}

// The sums of a part as they are below the maxima of the whole row.
__device__ __forceinline__ RowSums rebase(const PartSums& part, const Maxima& row, double tau, bool kl, int64_t n) {
  const double student = exp(double(part.student_max) - row.student);
  const double student_tau = exp((double(part.student_max) - row.student) / tau);
  const double teacher_tau = exp((double(part.teacher_max) - row.teacher) / tau);
  const double dx = double(base(part.student_max)) - row.student, dy = double(base(part.teacher_max)) - row.teacher;
  const double cross = part.cross + part.teacher_tau * ((kl ? dy - dx : dx) / tau);
  return {part.student * student, part.student_tau * student_tau, part.teacher_tau * teacher_tau, cross * teacher_tau,
          part.shift + n * dx};
}

// Every thread gets the maxima and sums of the whole row, put together in a fixed order.
__device__ __forceinline__ void collect(const KdRun& run, const Row& row, Maxima& maxima, RowSums& sums) {
  const Logits& logits = run.logits;
  if (threadIdx.x == 0) wait_for(&logits.parts_done[row.b], unsigned(logits.parts));
  __syncthreads();
  const PartSums* parts = logits.part_sums + row.b * logits.parts;
  Maxima highest;
  for (int i = threadIdx.x; i < logits.parts; i += kThreads) {
    const PartSums part = read_fresh(parts + i);
    highest = Higher{}(highest, {part.student_max, part.teacher_max, uint32_t(part.outranked)});
  }
  maxima = reduce_block(highest, run.shared.scratch, Higher{});
  RowSums mine;
  for (int i = threadIdx.x; i < logits.parts; i += kThreads) {
    const RowSums part =
        rebase(read_fresh(parts + i), maxima, run.shared.tau, logits.kl, part_length(logits, i));
    mine = Add{}(mine, part);
  }
  sums = reduce_block(mine, run.shared.scratch, Add{});
}

__device__ __forceinline__ void finish_part(const KdRun& run, const Row& row, int part) {
  const Logits& logits = run.logits;
  if (part && !logits.gradient) return;
  Maxima maxima;
  RowSums sums;
  if (row.valid) collect(run, row, maxima, sums);
  write_part(run, row, part * logits.part_size, part_length(logits, part), maxima, sums, false);
  if (part == 0 && threadIdx.x == 0)
    run.kd_sums[row.b] = row_losses(logits, run.shared, row, sums, maxima);
}

__device__ __forceinline__ void run_parts(const KdRun& run) {
  for (;;) {
    const Task task = task_of(run.logits, claim(&run.counters.part, run.shared));
    if (!task.any) return;
    if (task.b >= run.logits.B) continue;
    const Row row = read_row(run.logits, task.b);
    if (task.gradient)
      finish_part(run, row, task.part);
    else if (row.valid)
      sum_part(run, row, task.part);
  }
}

}  // namespace cuda
}  // namespace litfast
