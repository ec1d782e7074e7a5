// What the augmentation takes: a batch out of the set that stays in memory whole.
#pragma once

#include "math.h"

namespace litfast {

struct Augment {
  const uint8_t* images;     // [N, H, W, C]
  const int64_t* index;      // [B] into the images
  const int64_t *top, *left;  // [B] in 0..2 crop, of the window in the padded image
  const bool* mirrored;      // [B]
  const void* table;         // [C, 256]
  void* out;                 // [B, H, W, C] with channels_last, else [B, C, H, W]
  int64_t N, H, W, C, B, crop;
  int size;  // bytes of an element of table and out: 2, 4 or 8
  bool channels_last;
};

}  // namespace litfast
