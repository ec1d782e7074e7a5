// What one launch of a CUDA kernel takes, by value, and what the host needs to prepare it.
#pragma once

#include <vector>

#include "../lit.h"

namespace litfast {
namespace cuda {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kBlocksPerSM = 2;  // at least: leaves 128 registers a thread, and 64 KB of loads in flight
constexpr int kSections = 32;  // of one launch; a kernel's arguments may take 4 KB
constexpr int kSlots = 4096;   // counters that are always there, see Counters

// Integers that blocks meet at. Zero before a launch; its last block leaves them zero, so that a graph can be replayed.
struct Counters {
  unsigned long long valid;  // rows that count, as far as they have been counted
  unsigned chunk;            // of targets, the next one to count
  unsigned counted;          // chunks of targets
  unsigned part;             // of rows, the next one to work on
  unsigned finished;         // blocks
};

struct Section {
  const void* student;  // [n] dense, any layout
  const void* teacher;  // [n] the student's layout
  void* gradient;       // [n] the student's layout and dtype, but f32 for f16; null: not wanted
  int64_t n;
  double weight, weight_of_element;    // weight / n; 0 for n = 0
  Dtype student_dtype, teacher_dtype;  // not f64
  unsigned turn;                       // the block that takes the first tile
};

// How many blocks a section can occupy: kThreads times 4 vectors of 16 bytes of the larger type make a tile.
LITFAST_MATH int64_t tiles(const Section& section) {
  const bool wide = section.student_dtype == Dtype::f32 || section.teacher_dtype == Dtype::f32;
  const int64_t size = kThreads * 4 * (wide ? 4 : 8);
  return (section.n + size - 1) / size;
}

// What a block has added up over its rows.
struct KdPartial {
  double soft, hard;
  int64_t correct, valid;
};

// One part of a row: maxima, and sums below them.
struct PartSums {
  float student_max, teacher_max;
  double student, student_tau, teacher_tau, cross, shift;
  int64_t outranked;
};

enum class RowPlan : int { lanes, block, parts };  // who works on a row

struct Logits {
  const void* student;    // [B, K] contiguous
  const void* teacher;    // [B, K] contiguous
  const int64_t* target;  // [B]; null: no hard term, every row is valid
  void* gradient;         // [B, K] the student's dtype, but f32 for f16; null: not wanted
  float* rows;            // [B] scale times the loss of each row; null: not wanted
  int64_t B, K;           // B = 0: no logits
  int64_t ignore_index;
  double label_smoothing;
  Dtype student_dtype, teacher_dtype;  // not f64
  bool kl, mean;                       // KL instead of CE; divide by the number of valid rows
  RowPlan plan;
  unsigned turn;       // the block that takes the first row
  int lanes;           // RowPlan::lanes: threads a row, a power of 2
  int parts;           // RowPlan::parts: of a row
  int64_t part_size;   // elements, a multiple of 8
  int64_t group_rows;  // rows that are summed before the first of them gets its gradient
  PartSums* part_sums;  // [B, parts]
  unsigned* parts_done;  // [B] zero before the launch
};

struct Coefficients {
  double tau, alpha, beta, scale;
  const double* on_device;  // [4] in their place; null: the numbers count
};

struct Losses {
  float* total;      // []; null: each row has its loss instead
  float* ir;         // [S] mean of each section's penalties
  float* soft;       // []
  float* hard;       // []
  int64_t* correct;  // []
};

struct Launch {
  Section sections[kSections];
  int S;  // of this launch
  Penalty penalty;
  Logits logits;
  Coefficients coefficients;
  Losses losses;
  int64_t first_section;   // how many sections earlier launches have taken
  bool last;               // this launch writes the total
  Counters* counters;      // null: the slot's
  int slot;
  double* section_sums;    // [S, blocks]
  KdPartial* kd_sums;      // [blocks], or [B] with RowPlan::parts
  double* weighted;        // [all S] weight times mean
};
static_assert(sizeof(Launch) <= 4096, "a kernel's arguments must fit in 4 KB");

// One call of an op: cut into launches, its workspace measured; then run.
class Call {
 public:
  Call(std::vector<Section> sections, Penalty penalty, const Logits& logits, const Coefficients& coefficients,
       const Losses& losses, int device);
  int64_t workspace_bytes() const { return bytes_; }
  // `workspace` may hold anything. `counters` must hold zeros; without them the module's own slot serves.
  void run(void* workspace, Counters* counters, int slot, void* stream) const;

 private:
  void plan_rows();
  int64_t place(char* workspace, Launch& launch) const;

  std::vector<Section> sections_;
  Launch launch_;
  int device_, blocks_;
  size_t shared_ = 0;  // bytes of dynamic shared memory
  int64_t bytes_ = 0;
};

constexpr int kScaled = kSections + 1;  // tensors of one launch: the sections and the logits
constexpr int kScaleBytes = 64;         // of a gradient that a thread has in flight
constexpr int kScaleBlocksPerSM = 4;    // at least: 64 KB of loads in flight

// A gradient on its way out of backward.
struct Scaled {
  const void* gradient;  // [n] dense
  void* out;             // [n] the gradient's layout; may be the gradient
  int64_t n;
  Dtype dtype;    // of out, and of the gradient but for f16, whose gradient is f32; not f64
  unsigned turn;  // the block that takes the first tile
};

// How many blocks a tensor can occupy.
LITFAST_MATH int64_t tiles(const Scaled& tensor) {
  const int64_t size = kThreads * kScaleBytes / (tensor.dtype == Dtype::bf16 ? 2 : 4);
  return (tensor.n + size - 1) / size;
}

struct ScaleLaunch {
  Scaled tensors[kScaled];
  int count;
  const float* scale;  // [] on the device
};
static_assert(sizeof(ScaleLaunch) <= 4096, "a kernel's arguments must fit in 4 KB");

// out = scale * gradient for every tensor; without reading the scale on the host.
void scale(const std::vector<Scaled>& tensors, const float* factor, int device, void* stream);

struct Driver {
  int supports, needs;  // CUDA versions: 1000 major + 10 minor; supports = 0: no driver
};
Driver driver();

}  // namespace cuda
}  // namespace litfast
