// Corner-pool kernels for CUDA and their launch geometry, free of torch: the tests compile these
// very files for the host through an emulation of threads, shuffles and barriers.
//
// Bytes moved for E elements of b bytes; the minimum reads every input and writes every output
// once. Nothing is kept between forward and backward but the input: 0 bytes an element.
//   columns_forward, rows_forward      2 E b = minimum
//   columns_backward, rows_backward    3 E b = minimum while a line fits one tile (16 to 64 cells
//                                      of a column, 32 vectors of a row); beyond that at most one
//                                      element a line and tile is written a second time
//   sum_forward                        3 E b = minimum; two pools and an addition move 7 E b
// Accesses are 16 bytes wide where strides and addresses allow, otherwise one element. No atomics,
// and sums are taken in a fixed order: results do not vary from run to run.
#pragma once

#include "columns.cuh"
#include "rows.cuh"
#include "sum.cuh"

namespace cornernet_d2 {
namespace gpu {

// `launch(kernel, grid, block, arguments...)` starts a kernel on the current stream.

template <class Bits>
bool aligned(const void* pointer, int64_t first_stride, const int64_t* strides, int count) {
  constexpr int64_t n = kVectorBytes / sizeof(Bits);
  bool result = reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0 && first_stride % n == 0;
  for (int i = 0; i < count; ++i) result = result && strides[i * kMaxOperands] % n == 0;
  return result;
}

// Whether every access of N elements falls on a 16-byte boundary, in all operands.
template <class Bits>
bool vectorizable(const Args<Bits>& args, int operands) {
  const Plan& plan = args.plan;
  const void* pointers[] = {args.out, args.in, args.key};
  constexpr int64_t n = kVectorBytes / sizeof(Bits);
  bool result = (plan.rows ? plan.scan : plan.inner) % n == 0;
  for (int i = 0; i < operands; ++i) {
    const int64_t scan_stride = plan.rows ? 0 : plan.scan_stride[i];
    result = result && aligned<Bits>(pointers[i], scan_stride, &plan.outer_stride[0][i], 3);
  }
  return result;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int power_of_two_at_least(int64_t value, int limit) {
  int power = 1;
  while (power < value && power < limit) power *= 2;
  return power;
}

template <class F, int N, bool Backward, class Bits, class Launch>
void launch_pool_of(const Args<Bits>& args, const Launch& launch) {
  const Plan& plan = args.plan;
  if (plan.rows) {
    const int width = power_of_two_at_least(ceil_div(plan.scan, N), kWarp);
    const int64_t blocks = ceil_div(plan.outer_count() * width, kRowThreads);
    const auto kernel = Backward ? &rows_backward<F, N> : &rows_forward<F, N>;
    return launch(kernel, dim3(blocks), dim3(kRowThreads), args, width);
  }
  constexpr int kHeld = Backward ? kHeldBackward<N> : kHeldForward<N>;
  constexpr int kSegments = Backward ? kBackwardSegments<N> : kMaxSegments;
  const int segments = power_of_two_at_least(ceil_div(plan.scan, kHeld), kSegments);
  const int64_t units = plan.outer_count() * (plan.inner / N);
  const auto kernel = Backward ? &columns_backward<F, N> : &columns_forward<F, N>;
  launch(kernel, dim3(ceil_div(units, kWarp)), dim3(kWarp, segments), args);
}

template <class F, bool Backward, class Bits, class Launch>
void launch_pool(const Args<Bits>& args, const Launch& launch) {
  constexpr int N = kVectorBytes / sizeof(Bits);
  if (vectorizable(args, Backward ? 3 : 2)) {
    launch_pool_of<F, N, Backward>(args, launch);
  } else {
    launch_pool_of<F, 1, Backward>(args, launch);
  }
}

// Whether sum_forward can take maps `width` wide with this vertical plan: rows must be contiguous
// and no wider than the running maxima that a block keeps.
inline bool fusible(const Plan& plan, int64_t width, int64_t width_stride) {
  return !plan.rows && plan.inner == width && width_stride == 1 && width <= kSumColumns;
}

// args.plan: vertical plan of (y, vertical, horizontal); args.in, args.key: vertical, horizontal.
template <class F, class Bits, class Launch>
void launch_sum(const Args<Bits>& args, const Launch& launch) {
  constexpr int N = kVectorBytes / sizeof(Bits);
  const dim3 grid(args.plan.outer_count()), block(kWarp, kMaxSegments);
  if (vectorizable(args, 3)) {
    launch(&sum_forward<F, N>, grid, block, args);
  } else {
    launch(&sum_forward<F, 1>, grid, block, args);
  }
}

}  // namespace gpu
}  // namespace cornernet_d2
