// How a scan walks a 4-D tensor: which dimension is contiguous, which is scanned, what is left.
// Free of torch so that the CPU kernels, the CUDA kernels and their host emulation share it.
#pragma once

#include "macros.h"

#include <cstdint>

namespace cornernet_d2 {

constexpr int kDims = 4;
constexpr int kMaxOperands = 3;

// Every operand is indexed as outer[0..2], scan, inner; the strides are in elements.
//   lines: `inner` independent lines lie side by side (stride 1), each scanned with `scan_stride`.
//   rows:  the scanned dimension itself has stride 1 and inner == 1.
struct Plan {
  bool rows;
  int64_t scan;
  int64_t inner;
  int64_t outer[3];
  int64_t scan_stride[kMaxOperands];
  int64_t outer_stride[3][kMaxOperands];

  CORNERNET_INLINE int64_t outer_count() const { return outer[0] * outer[1] * outer[2]; }

  // Element offset of the `index`-th outer slice of operand `operand`.
  CORNERNET_INLINE int64_t offset(int64_t index, int operand) const {
    const int64_t i2 = index % outer[2];
    const int64_t i1 = index / outer[2] % outer[1];
    const int64_t i0 = index / outer[2] / outer[1];
    return i0 * outer_stride[0][operand] + i1 * outer_stride[1][operand] +
        i2 * outer_stride[2][operand];
  }
};

// The dimension that has stride 1 in all operands (the longest if several have), or -1 if there is
// none. Strides of dimensions of size 1 mean nothing and are ignored.
inline int contiguous_dim(const int64_t* sizes, const int64_t* const* strides, int operands) {
  int best = -1;
  bool any = false;
  for (int d = kDims - 1; d >= 0; --d) {
    if (sizes[d] <= 1) continue;
    any = true;
    bool unit = true;
    for (int i = 0; i < operands; ++i) unit = unit && strides[i][d] == 1;
    if (unit && (best < 0 || sizes[d] > sizes[best])) best = d;
  }
  return any ? best : kDims - 1;
}

// Precondition: contiguous_dim(...) == inner_dim >= 0.
inline Plan make_plan(
    const int64_t* sizes,
    const int64_t* const* strides,
    int operands,
    int scan_dim,
    int inner_dim) {
  Plan plan{};
  plan.rows = inner_dim == scan_dim;
  plan.scan = sizes[scan_dim];
  plan.inner = plan.rows ? 1 : sizes[inner_dim];
  for (int i = 0; i < operands; ++i) plan.scan_stride[i] = plan.rows ? 1 : strides[i][scan_dim];

  int used = 0;
  for (int d = kDims - 1; d >= 0; --d) {  // innermost first, so that merging sees them in order
    if (d == scan_dim || d == inner_dim) continue;
    bool mergeable = !plan.rows;
    for (int i = 0; i < operands; ++i) mergeable = mergeable && strides[i][d] == plan.inner;
    if (mergeable || sizes[d] == 1) {
      plan.inner *= sizes[d];
      continue;
    }
    // Dimensions that the next inner one continues in every operand become one with it.
    bool continues = used > 0;
    for (int i = 0; continues && i < operands; ++i) {
      continues = strides[i][d] == plan.outer[3 - used] * plan.outer_stride[3 - used][i];
    }
    if (continues) {
      plan.outer[3 - used] *= sizes[d];
      continue;
    }
    for (int i = 0; i < operands; ++i) plan.outer_stride[2 - used][i] = strides[i][d];
    plan.outer[2 - used] = sizes[d];
    ++used;
  }
  for (; used < 3; ++used) plan.outer[2 - used] = 1;
  return plan;
}

}  // namespace cornernet_d2
