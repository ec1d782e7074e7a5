// Python's door to the kernels: raw addresses in, sums out. Free of torch, so that one build serves every torch version.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#ifdef LITFAST_WITH_CUDA
#include "cuda/bindings.h"
#endif

namespace py = pybind11;

namespace litfast {
namespace {

// student, teacher, gradient, n, student dtype, teacher dtype, factor: the fields of IrSection
using SectionArgs = std::tuple<uintptr_t, uintptr_t, uintptr_t, int64_t, int, int, double>;

template <class T = void>
T* address(uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

IrSection section(const SectionArgs& args) {
  const auto& [student, teacher, gradient, n, student_dtype, teacher_dtype, factor] = args;
  return {address(student), address(teacher), address(gradient), n, Dtype(student_dtype), Dtype(teacher_dtype), factor};
}

Kd make_kd(uintptr_t student, uintptr_t teacher, uintptr_t target, uintptr_t gradient, uintptr_t rows, int64_t B,
           int64_t K, int student_dtype, int teacher_dtype, int64_t ignore_index, double alpha, double tau,
           double label_smoothing, double factor, bool kl) {
  return {address(student), address(teacher), address<int64_t>(target), address(gradient), address<double>(rows), B, K,
          Dtype(student_dtype), Dtype(teacher_dtype), ignore_index, alpha, tau, label_smoothing, factor, kl};
}

Kernels kernels_of(const std::string& isa) {
  for (const Kernels& kernels : runnable_kernels())
    if (isa == kernels.isa) return kernels;
  throw std::invalid_argument("litfast._C: this machine or this build has no instruction set " + isa);
}

py::tuple run_lit_cpu(const std::vector<SectionArgs>& args, int penalty, const std::optional<Kd>& kd, int threads,
                      const std::string& isa) {
  const Kernels kernels = kernels_of(isa);
  std::vector<IrSection> sections;
  for (const SectionArgs& one : args) sections.push_back(section(one));
  std::vector<double> ir(sections.size());
  LitSums sums{ir.data(), {}};
  const Lit lit{sections.data(), static_cast<int64_t>(sections.size()), Penalty(penalty), kd ? &*kd : nullptr};
  {
    py::gil_scoped_release release;
    lit_cpu(lit, kernels, threads, sums);
  }
  return py::make_tuple(ir, sums.kd.soft, sums.kd.hard, sums.kd.correct);
}

py::tuple run_scan_target(uintptr_t target, int64_t B, int64_t K, int64_t ignore_index) {
  const TargetScan scan = scan_target(address<int64_t>(target), B, K, ignore_index);
  return py::make_tuple(scan.valid, scan.bad_row);
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
  py::class_<Kd>(m, "Kd").def(
      py::init(&make_kd), py::kw_only(), py::arg("student"), py::arg("teacher"), py::arg("target"), py::arg("gradient"),
      py::arg("rows"), py::arg("B"), py::arg("K"), py::arg("student_dtype"), py::arg("teacher_dtype"),
      py::arg("ignore_index"), py::arg("alpha"), py::arg("tau"), py::arg("label_smoothing"), py::arg("factor"),
      py::arg("kl"));
  m.def("lit_cpu", &run_lit_cpu, py::arg("sections"), py::arg("penalty"), py::arg("kd"), py::arg("threads"),
        py::arg("isa"), "Runs all sections and the logits; returns (ir sums, soft sum, hard sum, correct).");
  m.def("scan_target", &run_scan_target, py::arg("target"), py::arg("B"), py::arg("K"), py::arg("ignore_index"),
        "Returns (valid rows, first row out of range or -1).");
  m.def("build_info", &build_info, "Compiler, CUDA architectures, OpenMP version (0: none), instruction sets, best first.");
#ifdef LITFAST_WITH_CUDA
  cuda::bind(m);
#endif
}
