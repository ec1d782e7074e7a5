// Python's door to the kernels: raw addresses in, sums out. Free of torch, so that one build serves every torch version.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "args.h"
#include "cpu/kernels.h"
#ifdef LITFAST_WITH_CUDA
#include "cuda/bindings.h"
#endif

namespace py = pybind11;

namespace litfast {
namespace {

template <class T = void>
T* address(uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

Kernels kernels_of(const std::string& isa) {
  for (const Kernels& kernels : runnable_kernels())
    if (isa == kernels.isa) return kernels;
  throw std::invalid_argument("litfast._C: this machine or this build has no instruction set " + isa);
}

// Writes to a tensor of fp32 or fp64.
class Floats {
 public:
  Floats(uintptr_t at, bool fp64) : f32_(address<float>(at)), f64_(address<double>(at)), fp64_(fp64) {}
  void put(int64_t i, double value) {
    if (fp64_)
      f64_[i] = value;
    else
      f32_[i] = float(value);
  }

 private:
  float* f32_;
  double* f64_;
  bool fp64_;
};

int64_t at_least_one(int64_t n) { return n > 1 ? n : 1; }

int64_t run_lit_cpu(const std::vector<SectionArgs>& section_args, int penalty, const std::optional<LogitsArgs>& logits,
                    const CoefficientArgs& coefficients, const LossArgs& losses, int threads, const std::string& isa) {
  const auto [tau, alpha, beta, scale] = coefficients;
  std::vector<IrSection> sections;
  for (const auto& [student, teacher, gradient, n, student_dtype, teacher_dtype, weight] : section_args)
    sections.push_back({address(student), address(teacher), address(gradient), n, Dtype(student_dtype),
                        Dtype(teacher_dtype), scale * (1 - beta) * weight / at_least_one(n)});
  std::optional<Kd> kd;
  int64_t divisor = 1;
  const auto [total_at, parts_at, correct_at, rows_at, fp64] = losses;
  std::vector<double> rows;
  if (logits) {
    const auto& [student, teacher, target, gradient, B, K, student_dtype, teacher_dtype, ignore_index, label_smoothing, kl,
                 mean] = *logits;
    TargetScan scan{B, -1};
    if (target) scan = scan_target(address<int64_t>(target), B, K, ignore_index);
    if (scan.bad_row >= 0) return scan.bad_row;
    if (mean) divisor = at_least_one(scan.valid);
    if (!total_at) rows.resize(B);
    kd = Kd{address(student), address(teacher), address<int64_t>(target), address(gradient), total_at ? nullptr : rows.data(),
            B, K, Dtype(student_dtype), Dtype(teacher_dtype), ignore_index, alpha, tau, label_smoothing,
            scale * beta / divisor, kl};
  }
  std::vector<double> ir(sections.size());
  LitSums sums{ir.data(), {}};
  const Kernels kernels = kernels_of(isa);
  {
    py::gil_scoped_release release;
    lit_cpu({sections.data(), int64_t(sections.size()), Penalty(penalty), kd ? &*kd : nullptr}, kernels, threads, sums);
  }

  Floats total(total_at, fp64), parts(parts_at, fp64), by_row(rows_at, fp64);
  for (size_t b = 0; b < rows.size(); ++b) by_row.put(b, scale * rows[b]);
  if (!total_at) return -1;
  const double soft = sums.kd.soft / divisor, hard = sums.kd.hard / divisor;
  double distances = 0;
  for (size_t i = 0; i < sections.size(); ++i) {
    const double mean = ir[i] / at_least_one(sections[i].n);
    distances += std::get<6>(section_args[i]) * mean;
    parts.put(2 + i, mean);
  }
  parts.put(0, soft);
  parts.put(1, hard);
  *address<int64_t>(correct_at) = sums.kd.correct;
  total.put(0, scale * (beta * (alpha * hard + (1 - alpha) * soft) + (1 - beta) * distances));
  return -1;
}

int64_t run_augment_cpu(const AugmentArgs& args, const AugmentSizes& sizes, int size, bool channels_last, int threads) {
  const auto [images, index, top, left, mirrored, table, out] = args;
  const auto [N, H, W, C, B, crop] = sizes;
  const Augment augment{address<const uint8_t>(images), address<const int64_t>(index), address<const int64_t>(top),
                        address<const int64_t>(left), address<const bool>(mirrored), address(table), address(out),
                        N, H, W, C, B, crop, size, channels_last};
  const py::gil_scoped_release release;
  return augment_cpu(augment, threads);
}

std::vector<LowRankBlock> blocks_of(const std::vector<LowRankBlockArgs>& args) {
  std::vector<LowRankBlock> blocks;
  for (const auto& [factor, basis, n, r] : args) blocks.push_back({address(factor), address(basis), n, r});
  return blocks;
}

LowRank table_of(const std::vector<LowRankBlock>& blocks, uintptr_t place, int64_t width, bool fp64) {
  int64_t N = 0;
  for (const LowRankBlock& block : blocks) N += block.n;
  return {blocks.data(), address<const int64_t>(place), int64_t(blocks.size()), N, width, fp64};
}

int64_t run_look_up_cpu(const std::vector<LowRankBlockArgs>& block_args, const LookUpArgs& args, int64_t tokens,
                        int64_t width, bool fp64, int threads, const std::string& isa) {
  const auto [ids, place, out] = args;
  const std::vector<LowRankBlock> blocks = blocks_of(block_args);
  const LookUp look_up{table_of(blocks, place, width, fp64), address<const int64_t>(ids), address(out), tokens};
  const Kernels kernels = kernels_of(isa);
  const py::gil_scoped_release release;
  return look_up_cpu(look_up, kernels, threads);
}

int64_t run_scores_cpu(const std::vector<LowRankBlockArgs>& block_args, const ScoresArgs& args, int64_t rows,
                       int64_t width, bool fp64, int threads, const std::string& isa) {
  const auto [hidden, place, bias, out] = args;
  const std::vector<LowRankBlock> blocks = blocks_of(block_args);
  const Scores scores{table_of(blocks, place, width, fp64), address(hidden), address(bias), address(out), rows};
  const Kernels kernels = kernels_of(isa);
  const py::gil_scoped_release release;
  return scores_cpu(scores, kernels, threads);
}

void run_columns_cpu(const ColumnsArgs& args, const ColumnsSizes& sizes, int threads) {
  const auto [x, index, out] = args;
  const auto [B, N, M, size] = sizes;
  const Columns columns{address(x), address<const int64_t>(index), address(out), B, N, M, size};
  const py::gil_scoped_release release;
  columns_cpu(columns, threads);
}

py::dict build_info() {
  std::vector<std::string> isas;
  for (const Kernels& kernels : runnable_kernels()) isas.push_back(kernels.isa);
  py::dict info;
  info["compiler"] = LITFAST_COMPILER;
  info["cuda_archs"] = LITFAST_CUDA_ARCHS;
#ifdef _OPENMP
  info["openmp"] = _OPENMP;
#else
  info["openmp"] = 0;
#endif
  info["isas"] = isas;
  return info;
}

}  // namespace
}  // namespace litfast

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  using namespace litfast;
  m.doc() = "Compiled kernels of litfast";
  m.def("lit_cpu", &run_lit_cpu, py::arg("sections"), py::arg("penalty"), py::arg("logits").none(true),
        py::arg("coefficients"), py::arg("losses"), py::arg("threads"), py::arg("isa"),
        "Writes losses and gradients; returns the first row whose target is no class (and writes nothing), or -1.");
  m.def("augment_cpu", &run_augment_cpu, py::arg("tensors"), py::arg("sizes"), py::arg("size"), py::arg("channels_last"),
        py::arg("threads"),
        "Writes the batch; returns the first sample out of range (and writes nothing), or -1.");
  m.def("low_rank_embedding_cpu", &run_look_up_cpu, py::arg("blocks"), py::arg("tensors"), py::arg("tokens"),
        py::arg("width"), py::arg("fp64"), py::arg("threads"), py::arg("isa"),
        "Writes the vectors; returns the first id that is no word or -2 for a bad place (and writes nothing), or -1.");
  m.def("low_rank_softmax_cpu", &run_scores_cpu, py::arg("blocks"), py::arg("tensors"), py::arg("rows"),
        py::arg("width"), py::arg("fp64"), py::arg("threads"), py::arg("isa"),
        "Writes the logits; returns -2 for a bad place (and writes nothing), or -1.");
  m.def("columns_cpu", &run_columns_cpu, py::arg("tensors"), py::arg("sizes"), py::arg("threads"),
        "Writes x[:, index].");
  m.def("build_info", &build_info, "Compiler, CUDA architectures, OpenMP version (0: none), instruction sets, best first.");
#ifdef LITFAST_WITH_CUDA
  cuda::bind(m);
#endif
}
