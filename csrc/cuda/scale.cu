// Backward: every gradient times the incoming scale, which only the device knows, in one launch. 2 N elements of traffic; none
// for a gradient that stays in its place while the scale is 1.
#include "device.h"

namespace litfast {
namespace cuda {
namespace {

// For a Span that is read as a gradient waits, and written in the student's dtype.
template <class Student>
struct ScaleTypes {
  using S = typename GradientOf<Student>::type;
  using T = Student;
  using G = Student;
};

// Past the L1 and not by `load`, which must not read what the same kernel writes: a gradient may be its own output.
template <class X, int N>
__device__ __forceinline__ Vector<X, N> load_once(const X* from) {
  return load_by<X, N>(from, [](const uint4* word) { return __ldcg(word); });
}

// An instruction that is named: `store` leaves it to the compiler, which cuts some of these into words.
template <class X, int N>
__device__ __forceinline__ void store_whole(X* to, const Vector<X, N>& vector) {
  static_assert(Vector<X, N>::kWords == 4, "16 bytes");
  const auto* words = vector.words;
  __stwb(reinterpret_cast<uint4*>(to), make_uint4(words[0], words[1], words[2], words[3]));
}

template <class Student>
__device__ __forceinline__ void scale_tensor(const Scaled& tensor, float factor) {
  using Types = ScaleTypes<Student>;
  using From = typename Types::S;
  constexpr int N = kVector<Types>, U = kScaleBytes / int(N * sizeof(From));
  const Span<Types> span(tensor.gradient, tensor.out, tensor.out, 0, tensor.n);
  const int64_t stride = int64_t(gridDim.x) * kThreads, block = turn_of_block(tensor.turn);
  for (int64_t tile = block * kThreads * U; tile < span.vectors; tile += stride * U) {
    Vector<From, N> gradient[U] = {};
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int64_t vector = tile + u * kThreads + threadIdx.x;
      if (vector < span.vectors) gradient[u] = load_once<From, N>(span.s + span.at(vector));
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int64_t vector = tile + u * kThreads + threadIdx.x;
      if (vector >= span.vectors) continue;
      Vector<Student, N> scaled;
#pragma unroll
      for (int i = 0; i < N; ++i) scaled.set(i, narrow(Student{}, factor * widen(gradient[u].get(i))));
      store_whole(span.g + span.at(vector), scaled);
    }
  }
  for (int64_t i = block * kThreads + threadIdx.x; i < span.singles; i += stride) {
    const int64_t at = span.single(i);
    span.g[at] = narrow(Student{}, factor * widen(span.s[at]));
  }
}

__global__ void __launch_bounds__(kThreads, kScaleBlocksPerSM) multiply_kernel(const __grid_constant__ ScaleLaunch launch) {
  const float factor = *launch.scale;
  for (int i = 0; i < launch.count; ++i) {
    const Scaled& tensor = launch.tensors[i];
    if (factor == 1 && tensor.out == tensor.gradient) continue;
    switch (tensor.dtype) {
      case Dtype::bf16: scale_tensor<bf16>(tensor, factor); break;
      case Dtype::f16: scale_tensor<f16>(tensor, factor); break;
      default: scale_tensor<float>(tensor, factor);
    }
  }
}

}  // namespace

const void* scale_kernel() { return reinterpret_cast<const void*>(&multiply_kernel); }

}  // namespace cuda
}  // namespace litfast
