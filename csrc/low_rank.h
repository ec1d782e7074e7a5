// What the low-rank ops take: a matrix [N, d] of word vectors as P blocks of words.
#pragma once

#include "math.h"

namespace litfast {

struct LowRankBlock {
  const void* factor;  // [n, r]
  const void* basis;   // [r, d]; null: a dense block, whose factor rows are the vectors (r = d)
  int64_t n, r;
};

struct LowRank {
  const LowRankBlock* blocks;  // [P]
  const int64_t* place;        // [N] where each word lies when the blocks' words follow one another
  int64_t P, N, d;
  bool fp64;
};

struct LookUp {
  LowRank table;
  const int64_t* ids;  // [T]
  void* out;           // [T, d]
  int64_t T;
};

struct Scores {
  LowRank table;
  const void* hidden;  // [B, d]
  const void* bias;    // [N]; null: none
  void* out;           // [B, N], in the vocabulary's order
  int64_t B;
};

// out[b, j] = x[b, index_j], elements of 4 or 8 bytes.
struct Columns {
  const void* x;         // [B, N]
  const int64_t* index;  // [M] in 0..N-1
  void* out;             // [B, M]
  int64_t B, N, M;
  int size;
};

// Rows and columns of a product that stay in registers.
struct LowRankTile {
  int64_t rows, columns;
};

// A block's factor and basis in panels of `LowRankTile::columns` rows, each panel transposed, zeros behind the last row.
struct LowRankPanels {
  const void *factor, *basis;
};

}  // namespace litfast
