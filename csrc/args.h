// How litfast/ops/_native.py hands a call to the kernels of either device: tuples of raw addresses and numbers.
#pragma once

#include <array>
#include <cstdint>
#include <tuple>

namespace litfast {

// student, teacher, gradient (0: not wanted), n, student dtype, teacher dtype, weight
using SectionArgs = std::tuple<uintptr_t, uintptr_t, uintptr_t, int64_t, int, int, double>;

// student, teacher, target (0: none), gradient (0: not wanted), B, K, student dtype, teacher dtype, ignore_index,
// label_smoothing, kl, divide by the valid rows
using LogitsArgs =
    std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t, int64_t, int64_t, int, int, int64_t, double, bool, bool>;

// gradient, out, n, dtype of out
using ScaledArgs = std::tuple<uintptr_t, uintptr_t, int64_t, int>;

// tau, alpha, beta, scale
using CoefficientArgs = std::tuple<double, double, double, double>;

// total [], parts [2 + S] (soft, hard, each section's mean), correct [] int64, rows [B]; whether the floats are fp64.
// Either the rows are 0, or the other three are.
using LossArgs = std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t, bool>;

// images, index, top, left, mirrored, table, out
using AugmentArgs = std::array<uintptr_t, 7>;

// N, H, W, C, B, crop
using AugmentSizes = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;

// factor, basis (0: dense), n, r
using LowRankBlockArgs = std::tuple<uintptr_t, uintptr_t, int64_t, int64_t>;

// ids, place, out; or hidden, place, bias (0: none), out
using LookUpArgs = std::array<uintptr_t, 3>;
using ScoresArgs = std::array<uintptr_t, 4>;

// x, index, out; then B, N, M, bytes of an element
using ColumnsArgs = std::array<uintptr_t, 3>;
using ColumnsSizes = std::tuple<int64_t, int64_t, int64_t, int>;

}  // namespace litfast
