#include "bindings.h"

#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "../args.h"
#include "launch.h"

namespace py = pybind11;

namespace litfast {
namespace cuda {
namespace {

template <class T = void>
T* address(uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

Logits make_logits(const LogitsArgs& args, uintptr_t rows) {
  const auto& [student, teacher, target, gradient, B, K, student_dtype, teacher_dtype, ignore_index, label_smoothing, kl, mean] =
      args;
  Logits logits{};
  logits.student = address(student);
  logits.teacher = address(teacher);
  logits.target = address<int64_t>(target);
  logits.gradient = address(gradient);
  logits.rows = address<float>(rows);
  logits.B = B;
  logits.K = K;
  logits.student_dtype = Dtype(student_dtype);
  logits.teacher_dtype = Dtype(teacher_dtype);
  logits.ignore_index = ignore_index;
  logits.label_smoothing = label_smoothing;
  logits.kl = kl;
  logits.mean = mean;
  return logits;
}

Call make_call(const std::vector<SectionArgs>& args, int penalty, const std::optional<LogitsArgs>& logits,
               const CoefficientArgs& coefficients, uintptr_t on_device, const LossArgs& losses, int device) {
  std::vector<Section> sections;
  for (const auto& [student, teacher, gradient, n, student_dtype, teacher_dtype, weight] : args)
    sections.push_back({address(student), address(teacher), address(gradient), n, weight, 0, Dtype(student_dtype),
                        Dtype(teacher_dtype), 0});
  const auto& [tau, alpha, beta, scale] = coefficients;
  const Coefficients numbers{tau, alpha, beta, scale, address<double>(on_device)};
  const auto& [total, parts_at, correct, rows, fp64] = losses;
  float* parts = address<float>(parts_at);
  const Losses to{address<float>(total), parts + 2, parts, parts + 1, address<int64_t>(correct)};
  return Call(std::move(sections), Penalty(penalty), logits ? make_logits(*logits, rows) : Logits{}, numbers, to, device);
}

void run(const Call& call, uintptr_t workspace, uintptr_t counters, int slot, uintptr_t stream) {
  const py::gil_scoped_release release;
  call.run(address(workspace), address<Counters>(counters), slot, address(stream));
}

void run_scale(const std::vector<ScaledArgs>& args, uintptr_t factor, int device, uintptr_t stream) {
  std::vector<Scaled> tensors;
  for (const auto& [gradient, out, n, dtype] : args)
    tensors.push_back({address(gradient), address(out), n, Dtype(dtype), 0});
  const py::gil_scoped_release release;
  scale(tensors, address<float>(factor), device, address(stream));
}

}  // namespace

void bind(py::module_& m) {
  py::class_<Call>(m, "CudaCall", "One call of an op: prepared, its workspace measured; then run.")
      .def(py::init(&make_call), py::kw_only(), py::arg("sections"), py::arg("penalty"), py::arg("logits").none(true),
           py::arg("coefficients"), py::arg("on_device"), py::arg("losses"), py::arg("device"))
      .def_property_readonly("workspace_bytes", &Call::workspace_bytes)
      .def("run", &run, py::arg("workspace"), py::arg("counters"), py::arg("slot"), py::arg("stream"));
  m.def("cuda_scale", &run_scale, py::arg("tensors"), py::arg("scale"), py::arg("device"), py::arg("stream"),
        "Every gradient times the fp32 scale, which stays on the device, into its out, which may be the gradient.");
  m.attr("CUDA_SLOTS") = kSlots;
  m.attr("CUDA_COUNTER_BYTES") = sizeof(Counters);
  m.def(
      "cuda_driver", [] { return std::make_pair(driver().supports, driver().needs); },
      "CUDA versions, 1000 major + 10 minor: what the driver supports (0: no driver), what the kernel needs.");
}

}  // namespace cuda
}  // namespace litfast
