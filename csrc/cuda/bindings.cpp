#include "bindings.h"

#include <pybind11/stl.h>

#include <tuple>
#include <vector>

#include "launch.h"

namespace py = pybind11;

namespace litfast {
namespace cuda {
namespace {

// student, teacher, gradient, n, student dtype, teacher dtype, weight: the fields of Section
using SectionArgs = std::tuple<uintptr_t, uintptr_t, uintptr_t, int64_t, int, int, double>;

template <class T = void>
T* address(uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

Logits make_logits(uintptr_t student, uintptr_t teacher, uintptr_t target, uintptr_t gradient, uintptr_t rows, int64_t B,
                   int64_t K, int student_dtype, int teacher_dtype, int64_t ignore_index, double label_smoothing, bool kl,
                   bool mean) {
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

Call make_call(const std::vector<SectionArgs>& args, int penalty, const Logits* logits,
               const std::tuple<double, double, double, double>& coefficients, uintptr_t on_device,
               const std::tuple<int, int, int, int>& places, const std::vector<uintptr_t>& losses, int device) {
  std::vector<Section> sections;
  for (const auto& [student, teacher, gradient, n, student_dtype, teacher_dtype, weight] : args)
    sections.push_back({address(student), address(teacher), address(gradient), n, weight, 0, Dtype(student_dtype),
                        Dtype(teacher_dtype), 0});
  const auto& [tau, alpha, beta, scale] = coefficients;
  const auto& [tau_at, alpha_at, beta_at, scale_at] = places;
  const Coefficients numbers{tau, alpha, beta, scale, address<double>(on_device), tau_at, alpha_at, beta_at, scale_at};
  const Losses to{address<float>(losses.at(0)), address<float>(losses.at(1)), address<float>(losses.at(2)),
                  address<float>(losses.at(3)), address<int64_t>(losses.at(4))};
  return Call(std::move(sections), Penalty(penalty), logits ? *logits : Logits{}, numbers, to, device);
}

void run(const Call& call, uintptr_t workspace, uintptr_t counters, int slot, uintptr_t stream) {
  const py::gil_scoped_release release;
  call.run(address(workspace), address<Counters>(counters), slot, address(stream));
}

}  // namespace

void bind(py::module_& m) {
  py::class_<Logits>(m, "CudaLogits")
      .def(py::init(&make_logits), py::kw_only(), py::arg("student"), py::arg("teacher"), py::arg("target"),
           py::arg("gradient"), py::arg("rows"), py::arg("B"), py::arg("K"), py::arg("student_dtype"),
           py::arg("teacher_dtype"), py::arg("ignore_index"), py::arg("label_smoothing"), py::arg("kl"), py::arg("mean"));
  py::class_<Call>(m, "CudaCall", "One call of an op: prepared, its workspace measured; then run.")
      .def(py::init(&make_call), py::kw_only(), py::arg("sections"), py::arg("penalty"), py::arg("logits").none(true),
           py::arg("coefficients"), py::arg("on_device"), py::arg("places"), py::arg("losses"), py::arg("device"))
      .def_property_readonly("workspace_bytes", &Call::workspace_bytes)
      .def("run", &run, py::arg("workspace"), py::arg("counters"), py::arg("slot"), py::arg("stream"));
  m.attr("CUDA_SLOTS") = kSlots;
  m.attr("CUDA_COUNTER_BYTES") = sizeof(Counters);
  m.def(
      "cuda_driver", [] { return std::make_pair(driver().supports, driver().needs); },
      "CUDA versions, 1000 major + 10 minor: what the driver supports (0: no driver), what the kernel needs.");
}

}  // namespace cuda
}  // namespace litfast
