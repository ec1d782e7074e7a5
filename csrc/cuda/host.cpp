// Prepares launches: cuts the sections, chooses who works on a row, measures the workspace.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "kernel.h"

namespace litfast {
namespace cuda {
namespace {

constexpr size_t kLargestStage = 112 << 10;  // bytes of a row that is kept in shared memory: two blocks an SM
constexpr int64_t kPartBytes = 16 << 10;     // of the wider of student and teacher
constexpr int kLaneClasses = 256;            // 32 lanes with 8 classes each

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // forgets it, or the next call would report it again
  throw std::runtime_error(std::string("litfast CUDA kernel: ") + what + " must succeed, got " + cudaGetErrorName(error) +
                           ": " + cudaGetErrorString(error));
}

// Loading the kernel and asking about it is safe while a graph is captured, but the runtime has to be told so.
class Relaxed {
 public:
  Relaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~Relaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "asking the device");
  return value;
}

size_t stage_limit(int device) {
  return std::min(kLargestStage, size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) - 4096);
}

// How many blocks run at a time.
int resident_blocks(const void* kernel, int device, size_t shared) {
  static std::mutex mutex;
  static std::map<std::tuple<const void*, int, size_t>, int> known;
  const std::lock_guard<std::mutex> lock(mutex);
  int& blocks = known[{kernel, device, shared}];
  if (blocks) return blocks;
  const Relaxed relaxed;
  check(cudaSetDevice(device), "choosing the device");
  if (shared)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(stage_limit(device))),
          "reserving shared memory");
  int per_sm = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, kThreads, shared), "loading the kernel");
  return blocks = std::max(per_sm, 1) * attribute(cudaDevAttrMultiProcessorCount, device);
}

int64_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }
int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A tensor's first block follows the last one of the tensor before; returns the block that follows them all.
template <class Tensor>
unsigned take_turns(Tensor* tensors, int count, int blocks) {
  int64_t turn = 0;
  for (int i = 0; i < count; ++i) {
    tensors[i].turn = unsigned(turn % blocks);
    turn += tiles(tensors[i]);
  }
  return unsigned(turn % blocks);
}

// Hands out pieces of the workspace; counts only, when there is none yet.
class Pieces {
 public:
  explicit Pieces(char* base) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += divide_up(count * int64_t(sizeof(T)), 16) * 16;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace

Driver driver() {
  Driver versions{0, 0};
  if (cudaDriverGetVersion(&versions.supports) != cudaSuccess) versions.supports = 0;
  cudaRuntimeGetVersion(&versions.needs);
  return versions;
}

Call::Call(std::vector<Section> sections, Penalty penalty, const Logits& logits, const Coefficients& coefficients,
           const Losses& losses, int device)
    : sections_(std::move(sections)), launch_{}, device_(device) {
  launch_.penalty = penalty;
  launch_.logits = logits;
  launch_.coefficients = coefficients;
  launch_.losses = losses;
  for (Section& section : sections_) section.weight_of_element = section.n ? section.weight / double(section.n) : 0;
  plan_rows();
  Launch launch = launch_;
  bytes_ = place(nullptr, launch);
}

void Call::plan_rows() {
  Logits& rows = launch_.logits;
  const int64_t student = size_of(rows.student_dtype), teacher = size_of(rows.teacher_dtype);
  rows.lanes = 32;
  rows.parts = 1;
  rows.part_size = divide_up(std::max<int64_t>(rows.K, 1), 8) * 8;
  if (rows.K <= kLaneClasses) {
    rows.plan = RowPlan::lanes;
    while (rows.lanes > 1 && rows.lanes * 4 >= rows.K) rows.lanes /= 2;
  } else {
    rows.plan = RowPlan::block;
    if (size_t(rows.part_size * (student + teacher)) > stage_limit(device_)) {
      rows.plan = RowPlan::parts;
      rows.part_size = kPartBytes / std::max(student, teacher);
      rows.parts = int(divide_up(rows.K, rows.part_size));
    }
    if (rows.B) shared_ = size_t(rows.part_size * (student + teacher));
  }
  const int64_t at_once = rows.plan == RowPlan::lanes ? kThreads / rows.lanes : 1;
  int64_t work = divide_up(rows.B * rows.parts, at_once);
  for (const Section& section : sections_) work += tiles(section);
  blocks_ = int(std::clamp<int64_t>(work, 1, resident_blocks(kernel(), device_, shared_)));
  rows.group_rows = divide_up(blocks_, rows.parts);
}

int64_t Call::place(char* workspace, Launch& launch) const {
  Pieces pieces(workspace);
  const bool by_parts = launch.logits.plan == RowPlan::parts;
  const int64_t B = launch.logits.B, S = int64_t(sections_.size());
  launch.section_sums = pieces.take<double>(std::min<int64_t>(S, kSections) * blocks_);
  launch.weighted = pieces.take<double>(S);
  launch.kd_sums = pieces.take<KdPartial>(by_parts ? B : blocks_);
  launch.logits.part_sums = pieces.take<PartSums>(by_parts ? B * launch.logits.parts : 0);
  launch.logits.parts_done = pieces.take<unsigned>(by_parts ? B : 0);
  return pieces.used();
}

void Call::run(void* workspace, Counters* counters, int slot, void* stream_handle) const {
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  check(cudaSetDevice(device_), "choosing the device");
  Launch launch = launch_;
  place(static_cast<char*>(workspace), launch);
  launch.counters = counters;
  launch.slot = slot;
  const Logits logits = launch.logits;
  const int64_t S = int64_t(sections_.size());
  if (logits.plan == RowPlan::parts && logits.B)
    check(cudaMemsetAsync(logits.parts_done, 0, logits.B * sizeof(unsigned), stream), "clearing the workspace");
  do {  // the logits go with the last sections, when everything that the total needs is there
    launch.S = int(std::min<int64_t>(S - launch.first_section, kSections));
    launch.last = launch.first_section + launch.S == S;
    launch.logits.B = launch.last ? logits.B : 0;
    std::copy_n(sections_.begin() + launch.first_section, launch.S, launch.sections);
    launch.logits.turn = take_turns(launch.sections, launch.S, blocks_);
    void* arguments[] = {&launch};
    check(cudaLaunchKernel(kernel(), dim3(unsigned(blocks_)), dim3(kThreads), arguments, shared_, stream), "launching");
    launch.first_section += launch.S;
  } while (launch.first_section < S);
}

void scale(const std::vector<Scaled>& tensors, const float* factor, int device, void* stream) {
  check(cudaSetDevice(device), "choosing the device");
  const int64_t resident = resident_blocks(scale_kernel(), device, 0);
  for (size_t first = 0; first < tensors.size(); first += kScaled) {
    ScaleLaunch launch{};
    launch.scale = factor;
    launch.count = int(std::min<size_t>(tensors.size() - first, kScaled));
    std::copy_n(tensors.begin() + first, launch.count, launch.tensors);
    int64_t work = 0;
    for (int i = 0; i < launch.count; ++i) work += tiles(launch.tensors[i]);
    if (!work) continue;
    const int blocks = int(std::min(work, resident));
    take_turns(launch.tensors, launch.count, blocks);
    void* arguments[] = {&launch};
    check(cudaLaunchKernel(scale_kernel(), dim3(unsigned(blocks)), dim3(kThreads), arguments, 0,
                           static_cast<cudaStream_t>(stream)),
          "launching");
  }
}

}  // namespace cuda
}  // namespace litfast
