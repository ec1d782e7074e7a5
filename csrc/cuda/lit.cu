// The one kernel of all losses: a persistent grid runs the sections, then the rows; the block that finishes last adds up what
// the others have left and writes the losses. No float is added by an atomic, so two runs give the same bits.
#include "ir.h"
#include "parts.h"

namespace litfast {
namespace cuda {
namespace {

__device__ Counters kCounters[kSlots];

__device__ __forceinline__ void run_logits(const Launch& launch, Counters& counters, Shared& shared) {
  const Logits& logits = launch.logits;
  const KdRun run{logits, counters, shared, launch.kd_sums};
  if (logits.plan == RowPlan::parts) {
    find_factor(run);
    return run_parts(run);
  }
  const bool by_lanes = logits.plan == RowPlan::lanes;
  const int rows = by_lanes ? kThreads / logits.lanes : 1;  // at a time
  const int64_t block = turn_of_block(logits.turn);
  if (block * rows < logits.B) find_factor(run);
  for (int64_t first = block * rows; first < logits.B; first += int64_t(gridDim.x) * rows) {
    if (by_lanes)
      run_lanes(run, first + threadIdx.x / logits.lanes);
    else
      run_block(run, first);
  }
  __syncthreads();
  if (threadIdx.x) return;
  KdPartial sum{};
  for (const KdPartial& warp : shared.warps) sum = Add{}(sum, warp);
  launch.kd_sums[blockIdx.x] = sum;
}

// True for all threads of the block that comes here last; what the others wrote before is then there to be read.
__device__ __forceinline__ bool is_last_block(Counters& counters, Shared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    shared.claimed = atomicAdd(&counters.finished, 1u) + 1 == gridDim.x;
    __threadfence();
  }
  __syncthreads();
  return shared.claimed;
}

// One warp a section.
__device__ __forceinline__ void finish_sections(const Launch& launch) {
  for (int i = threadIdx.x / 32; i < launch.S; i += kWarps) {
    const double* sums = launch.section_sums + i * int64_t(gridDim.x);
    double sum = 0;
    for (int block = threadIdx.x % 32; block < int(gridDim.x); block += 32) sum += read_fresh(sums + block);
    sum = reduce_lanes(sum, 32, Add{});
    if (threadIdx.x % 32) continue;
    const Section& section = launch.sections[i];
    const double mean = section.n ? sum / section.n : 0;
    launch.weighted[launch.first_section + i] = section.weight * mean;
    launch.losses.ir[launch.first_section + i] = float(mean);
  }
}

__device__ __forceinline__ KdPartial finish_logits(const Launch& launch, Scratch& scratch) {
  const int64_t count = launch.logits.plan == RowPlan::parts ? launch.logits.B : gridDim.x;
  KdPartial sum{};
  if (launch.logits.B)
    for (int64_t i = threadIdx.x; i < count; i += kThreads) sum = Add{}(sum, read_fresh(launch.kd_sums + i));
  return reduce_block(sum, scratch, Add{});
}

__device__ __forceinline__ void write_losses(const Launch& launch, const Shared& c, const KdPartial& sum) {
  const Losses& to = launch.losses;
  if (!to.total) return;
  const double divisor = launch.logits.mean && sum.valid ? double(sum.valid) : 1;
  const double soft = sum.soft / divisor, hard = sum.hard / divisor;
  double ir = 0;
  for (int64_t i = 0; i < launch.first_section + launch.S; ++i) ir += launch.weighted[i];
  const double kd = c.alpha * hard + (1 - c.alpha) * soft;
  *to.total = float(c.scale * (c.beta * kd + (1 - c.beta) * ir));
  *to.soft = float(soft);
  *to.hard = float(hard);
  *to.correct = sum.correct;
}

__global__ void __launch_bounds__(kThreads, kBlocksPerSM) lit_kernel(const __grid_constant__ Launch launch) {
  __shared__ Shared shared;
  Counters& counters = launch.counters ? *launch.counters : kCounters[launch.slot];
  if (threadIdx.x == 0) read(launch.coefficients, shared);
  if (threadIdx.x < kWarps) shared.warps[threadIdx.x] = {};
  __syncthreads();
  run_sections(launch, shared);
  if (launch.logits.B) run_logits(launch, counters, shared);
  if (!is_last_block(counters, shared)) return;
  finish_sections(launch);
  const KdPartial sum = finish_logits(launch, shared.scratch);  // and a barrier behind the sections
  if (threadIdx.x) return;
  if (launch.last) write_losses(launch, shared, sum);
  counters = {};
}

}  // namespace

const void* kernel() { return reinterpret_cast<const void*>(&lit_kernel); }

}  // namespace cuda
}  // namespace litfast
