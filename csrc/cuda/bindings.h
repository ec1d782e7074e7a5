// Python's door to the CUDA kernels.
#pragma once

#include <pybind11/pybind11.h>

namespace litfast {
namespace cuda {

void bind(pybind11::module_& m);

}  // namespace cuda
}  // namespace litfast
