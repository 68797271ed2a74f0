// Corner-pool kernels for CUDA and their launch geometry, free of torch: the tests compile these
// very files for the host through an emulation of threads, shuffles and barriers.
//
// Bytes moved for E elements of b bytes; the minimum reads every input and writes every output
// once. Nothing is kept between forward and backward but the input: 0 bytes an element.
//   forward      2 E b = minimum
//   sum          5 E b: one pool, then the other, which adds the first to what it stores (the
//                minimum is 3 E b; two pools and an addition move 7 E b)
//   backward     3 E b = minimum while a line fits one tile (512 cells; 256 cells of odd rows);
//                a line of t tiles is read (t - 1) / 2 times more often
// Accesses are 16 bytes wide where strides and addresses allow, otherwise one element. No atomics,
// and sums are taken in a fixed order: results do not vary from run to run.
#pragma once

#include "columns.cuh"
#include "rows.cuh"

#include <algorithm>

namespace cornernet_d2 {
namespace gpu {

enum class Mode { kForward, kAdd, kBackward };  // kAdd: y += pool(x)

// Whether every access of N elements falls on a 16-byte boundary, in all operands.
template <class T>
bool vectorizable(const Args<T>& args, int operands) {
  const Plan& plan = args.plan;
  const void* pointers[] = {args.out, args.in, args.second};
  constexpr int64_t n = kVectorLength<T>;
  bool result = (plan.rows ? plan.scan : plan.inner) % n == 0;
  for (int i = 0; i < operands; ++i) {
    result = result && reinterpret_cast<uintptr_t>(pointers[i]) % kVectorBytes == 0;
    result = result && (plan.rows || plan.scan_stride[i] % n == 0);
    for (int d = 0; d < 3; ++d) result = result && plan.outer_stride[d][i] % n == 0;
  }
  return result;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int power_of_two_at_least(int64_t value, int limit) {
  int power = 1;
  while (power < value && power < limit) power *= 2;
  return power;
}

// `launch(kernel, grid, block, args)` starts a kernel on the current stream.
template <class T, int N, Mode mode, class Launch>
void launch_rows(Args<T> args, const Launch& launch) {
  const int64_t vectors = ceil_div(args.plan.scan, N);
  const bool many = vectors <= kWarp;
  args.width = power_of_two_at_least(many ? vectors : ceil_div(vectors, kVectors), kWarp);
  const int64_t* outer = args.plan.outer;
  const int64_t groups = outer[0] * outer[1] * ceil_div(outer[2], many ? kVectors : 1);
  const int64_t blocks = ceil_div(groups, kRowThreads / args.width);
  const auto kernel = mode == Mode::kBackward ? &rows_backward<T, N> : &rows_forward<T, N>;
  launch(kernel, dim3(blocks), dim3(kRowThreads), args);
}

template <class T, int N, Mode mode, class Launch>
void launch_columns(const Args<T>& args, const Launch& launch) {
  // Eight lanes read 128 bytes side by side. Short lines take more, so that a block has 64 threads;
  // long ones four, so that it has no more than kColumnThreads.
  const int segments = power_of_two_at_least(ceil_div(args.plan.scan, kHeld), kMaxSegments);
  const int lanes = std::min(std::max(8, 64 / segments), kColumnThreads / segments);
  const int64_t groups = args.plan.outer_count() * (args.plan.inner / N);
  const dim3 grid(ceil_div(groups, lanes)), block(lanes, segments);
  if constexpr (mode == Mode::kBackward) {
    launch(&columns_backward<T, N>, grid, block, args);
  } else {
    launch(&columns_forward<T, N, mode == Mode::kAdd>, grid, block, args);
  }
}

// args.plan is of (out, in) or, backward, of (out, in, second). Rows cannot add.
template <class T, Mode mode, class Launch>
void launch_pool(const Args<T>& args, const Launch& launch) {
  constexpr int N = kVectorLength<T>;
  const bool wide = vectorizable(args, mode == Mode::kBackward ? 3 : 2);
  if (mode != Mode::kAdd && args.plan.rows) {
    wide ? launch_rows<T, N, mode>(args, launch) : launch_rows<T, 1, mode>(args, launch);
  } else {
    wide ? launch_columns<T, N, mode>(args, launch) : launch_columns<T, 1, mode>(args, launch);
  }
}

// Both pools of a corner: the second is added to the first, which must not be the one along rows.
template <class T, class Launch>
void launch_sum(const Args<T>& vertical, const Args<T>& horizontal, const Launch& launch) {
  const bool vertical_first = vertical.plan.rows;
  launch_pool<T, Mode::kForward>(vertical_first ? vertical : horizontal, launch);
  launch_pool<T, Mode::kAdd>(vertical_first ? horizontal : vertical, launch);
}

}  // namespace gpu
}  // namespace cornernet_d2
