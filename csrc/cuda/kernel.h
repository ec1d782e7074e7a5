// What the host side knows of the kernels: compiled by nvcc there, launched from plain C++ here.
#pragma once

#include "launch.h"

namespace litfast {
namespace cuda {

const void* kernel();        // lit.cu
const void* scale_kernel();  // scale.cu

}  // namespace cuda
}  // namespace litfast
