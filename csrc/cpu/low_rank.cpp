// Products of rows with rows, for the look-up and the scores of a low-rank matrix. A tile of kRows rows against a panel of
// kWidth columns stays in registers; a panel holds kWidth rows of a factor or a basis, transposed.
#include "../low_rank.h"

namespace litfast {
namespace LITFAST_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kVectors = 4;
#elif defined(__AVX2__)
constexpr int kBytes = 32, kVectors = 2;
#else
constexpr int kBytes = 16, kVectors = 2;
#endif
constexpr int kRows = 6;
constexpr int64_t kTerms = 64;  // added up one by one; the rounding of longer sums would grow with their length

template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kBytes), aligned(sizeof(A)), may_alias));
};
template <class A>
using Vector = typename VectorOf<A>::type;

template <class A>
constexpr int kLanes = kBytes / sizeof(A);
template <class A>
constexpr int kWidth = kVectors * kLanes<A>;

// out[b, j] = sum_k x[b, k] panel[k, j] for R rows and kWidth columns.
template <class A, int R>
LITFAST_MATH void tile(const A* x, int64_t x_stride, int64_t K, const A* panel, int64_t panel_stride, A* out,
                       int64_t out_stride) {
  int64_t k = 0;
  do {
    const int64_t end = K - k > kTerms ? k + kTerms : K;
    Vector<A> sums[R][kVectors] = {};
    const bool first = k == 0;
    for (; k < end; ++k, panel += panel_stride) {
      Vector<A> columns[kVectors];
      for (int v = 0; v < kVectors; ++v) columns[v] = *reinterpret_cast<const Vector<A>*>(panel + v * kLanes<A>);
      for (int b = 0; b < R; ++b)
        for (int v = 0; v < kVectors; ++v) sums[b][v] += x[b * x_stride + k] * columns[v];
    }
    for (int b = 0; b < R; ++b)
      for (int v = 0; v < kVectors; ++v) {
        auto* place = reinterpret_cast<Vector<A>*>(out + b * out_stride + v * kLanes<A>);
        *place = first ? sums[b][v] : *place + sums[b][v];
      }
  } while (k < K);
}

// As `tile` for up to kRows rows and all panels of n columns; out holds a whole panel beyond them.
template <class A>
void product(const A* x, int64_t x_stride, int64_t rows, int64_t K, const A* panels, int64_t n, A* out, int64_t out_stride) {
  constexpr int W = kWidth<A>;
  for (int64_t j = 0; j < n; j += W, panels += K * W) {
    switch (rows) {
      case 6: tile<A, 6>(x, x_stride, K, panels, W, out + j, out_stride); break;
      case 5: tile<A, 5>(x, x_stride, K, panels, W, out + j, out_stride); break;
      case 4: tile<A, 4>(x, x_stride, K, panels, W, out + j, out_stride); break;
      case 3: tile<A, 3>(x, x_stride, K, panels, W, out + j, out_stride); break;
      case 2: tile<A, 2>(x, x_stride, K, panels, W, out + j, out_stride); break;
      default: tile<A, 1>(x, x_stride, K, panels, W, out + j, out_stride);
    }
  }
}

template <class A>
void typed_pack(const A* rows, int64_t n, int64_t K, int64_t first, A* panel) {
  constexpr int W = kWidth<A>;
  const int64_t count = n - first < W ? n - first : W;
  for (int64_t k = 0; k < K; ++k)
    for (int64_t j = 0; j < W; ++j) panel[k * W + j] = j < count ? rows[(first + j) * K + k] : A(0);
}

template <class A>
void typed_look_up(const LookUp& look_up, int64_t begin, int64_t end) {
  const LowRank& table = look_up.table;
  const int64_t d = table.d;
  for (int64_t t = begin; t < end; ++t) {
    int64_t j = table.place[look_up.ids[t]];
    const LowRankBlock* block = table.blocks;
    for (; j >= block->n; ++block) j -= block->n;
    const A* row = static_cast<const A*>(block->factor) + j * block->r;
    A* out = static_cast<A*>(look_up.out) + t * d;
    if (!block->basis) {
      memcpy(out, row, d * sizeof(A));
      continue;
    }
    const A* basis = static_cast<const A*>(block->basis);
    int64_t i = 0;
    for (; i + kWidth<A> <= d; i += kWidth<A>) tile<A, 1>(row, 0, block->r, basis + i, d, out + i, 0);
    for (; i < d; ++i) {
      A sum = 0;
      for (int64_t k = 0; k < block->r; ++k) sum += row[k] * basis[k * d + i];
      out[i] = sum;
    }
  }
}

// kRows rows at most: their scores block by block in `work`, then in the vocabulary's order with the bias in `out`. What a
// block's last panel leaves behind its columns the next block overwrites.
template <class A>
void typed_score(const Scores& scores, const LowRankPanels* panels, int64_t begin, int64_t rows, void* work) {
  const LowRank& table = scores.table;
  const int64_t d = table.d, N = table.N, stride = N + kWidth<A>, z_stride = d + kWidth<A>;
  const A* hidden = static_cast<const A*>(scores.hidden) + begin * d;
  const A* bias = static_cast<const A*>(scores.bias);
  A* scored = static_cast<A*>(work);
  A* z = scored + kRows * stride;
  for (int64_t p = 0, first = 0; p < table.P; first += table.blocks[p++].n) {
    const LowRankBlock& block = table.blocks[p];
    const A* factor = static_cast<const A*>(panels[p].factor);
    if (block.basis) {
      product(hidden, d, rows, d, static_cast<const A*>(panels[p].basis), block.r, z, z_stride);
      product(z, z_stride, rows, block.r, factor, block.n, scored + first, stride);
    } else {
      product(hidden, d, rows, d, factor, block.n, scored + first, stride);
    }
  }
  for (int64_t b = 0; b < rows; ++b) {
    const A* from = scored + b * stride;
    A* out = static_cast<A*>(scores.out) + (begin + b) * N;
    if (bias)
      for (int64_t w = 0; w < N; ++w) out[w] = from[table.place[w]] + bias[w];
    else
      for (int64_t w = 0; w < N; ++w) out[w] = from[table.place[w]];
  }
}

}  // namespace

void low_rank_look_up(const LookUp& look_up, int64_t begin, int64_t end) {
  look_up.table.fp64 ? typed_look_up<double>(look_up, begin, end) : typed_look_up<float>(look_up, begin, end);
}

LowRankTile low_rank_tile(bool fp64) { return {kRows, fp64 ? kWidth<double> : kWidth<float>}; }

void low_rank_pack(const void* rows, int64_t n, int64_t K, int64_t first, void* panel, bool fp64) {
  if (fp64)
    typed_pack(static_cast<const double*>(rows), n, K, first, static_cast<double*>(panel));
  else
    typed_pack(static_cast<const float*>(rows), n, K, first, static_cast<float*>(panel));
}

void low_rank_score(const Scores& scores, const LowRankPanels* panels, int64_t begin, int64_t rows, void* work) {
  scores.table.fp64 ? typed_score<double>(scores, panels, begin, rows, work)
                    : typed_score<float>(scores, panels, begin, rows, work);
}

}  // namespace LITFAST_ISA
}  // namespace litfast
