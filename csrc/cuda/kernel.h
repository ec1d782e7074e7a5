// What the host side knows of the kernel: compiled by nvcc there, launched from plain C++ here.
#pragma once

#include "launch.h"

namespace litfast {
namespace cuda {

const void* kernel();

}  // namespace cuda
}  // namespace litfast
