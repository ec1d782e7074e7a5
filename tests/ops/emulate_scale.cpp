// The backward kernel on the host: csrc/cuda/scale.cu and its launches, with a CUDA runtime that runs the threads one by one.
// The kernel has no barrier and no thread reads what another writes, so any order will do.
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <cstdint>

#undef __device__
#undef __forceinline__
#undef __global__
#undef __launch_bounds__
#define __device__
#define __forceinline__ inline
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)

static uint3 threadIdx, blockIdx;
static dim3 gridDim;

template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class T>
void __stwb(T* to, T value) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(T)) throw "a store that is not aligned";
  *to = value;
}
// For what device.h holds besides.
inline unsigned __shfl_xor_sync(unsigned, unsigned value, int) { return value; }
inline void __syncthreads() {}
inline void __threadfence() {}
inline void __nanosleep(unsigned) {}

#include "../../csrc/cuda/host.cpp"
#include "../../csrc/cuda/scale.cu"

namespace litfast {
namespace cuda {
const void* kernel() { return nullptr; }
}  // namespace cuda
}  // namespace litfast

static int launches;

extern "C" {
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t) { return ""; }
const char* cudaGetErrorString(cudaError_t) { return ""; }
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int*) { return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int*) { return cudaSuccess; }
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  *value = device;  // multiprocessors
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void*, dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t) {
  ++launches;
  gridDim = grid;
  for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x)
      litfast::cuda::multiply_kernel(*static_cast<litfast::cuda::ScaleLaunch*>(arguments[0]));
  return cudaSuccess;
}

// Returns the number of launches.
int scale(const void* const* gradients, void* const* out, const int64_t* sizes, const int* dtypes, int count, const float* factor,
          int blocks) {
  std::vector<litfast::cuda::Scaled> tensors;
  for (int i = 0; i < count; ++i) tensors.push_back({gradients[i], out[i], sizes[i], litfast::Dtype(dtypes[i]), 0});
  launches = 0;
  litfast::cuda::scale(tensors, factor, blocks, nullptr);
  return launches;
}
}
