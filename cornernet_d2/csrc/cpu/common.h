// What the CPU kernels share, and how they are written once for every instruction set.
//
// A kernel is a struct with `template <int Bytes> static void run(args, begin, end)`, where Bytes
// is the width of a vector; cpu/dispatch.h compiles it for the machine's widest vectors. Everything
// that runs inside must be CORNERNET_INLINE to be compiled for the same instruction set.
// Operand order in the plans: forward (y, x), backward (grad_x, grad_y, x).
#pragma once

#include "../plan.h"
#include "simd.h"

#include <algorithm>

namespace cornernet_d2 {

// Lines are processed this many at a time: three rows of it (input, output, running maximum) stay
// in a 32 KiB first-level cache.
constexpr int64_t kLineBlock = 2048;
// The backward pass keeps one byte for each (position, line) of its block: at most this many while
// a block is at least kMinLineBlock lines wide.
constexpr int64_t kFlagBytes = 16384;
constexpr int64_t kMinLineBlock = 64;

template <class Bits>
struct PoolArgs {
  Plan plan;
  bool reverse;
  int64_t block;    // lines a task; kernels over rows ignore it
  Bits* out;        // forward: y, backward: grad_x
  const Bits* in;   // forward: x, backward: grad_y
  const Bits* key;  // backward: x
};

inline int64_t backward_line_block(int64_t scan) {
  const int64_t fitting = kFlagBytes / std::max<int64_t>(scan, 1) / kMinLineBlock;
  return std::min(kLineBlock, std::max<int64_t>(fitting, 1) * kMinLineBlock);
}

inline int64_t line_tasks(const Plan& plan, int64_t block) {
  return plan.outer_count() * ((plan.inner + block - 1) / block);
}

// Hardware prefetchers follow memory upwards; half of all scans walk it downwards. So every vector
// asks, upwards, for one that is needed later: rows for those this many bytes further on,
constexpr int64_t kPrefetchBytes = 4096;

inline int64_t rows_ahead(int64_t row_bytes) {
  return std::max<int64_t>(1, kPrefetchBytes / std::max<int64_t>(row_bytes, 1));
}

// lines for the same position of the next task while a task's share of a map is at most this large
// (four of them fit a 1 MiB second-level cache), else for the next positions of the scan.
constexpr int64_t kPrefetchTaskBytes = 256 * 1024;

// Where to look ahead at step i of the scan: elements from its position to what is wanted.
CORNERNET_INLINE int64_t line_ahead(
    const Plan& plan, int operand, int64_t next_task, int64_t i, bool reverse, int64_t bytes) {
  const int64_t stride = plan.scan_stride[operand];
  const int64_t position = reverse ? plan.scan - 1 - i : i;
  if (plan.scan * bytes <= kPrefetchTaskBytes) return next_task + (i - position) * stride;
  return (reverse ? -1 : 1) * rows_ahead(bytes) * stride;
}

CORNERNET_INLINE int lanes_left(int64_t lanes, int64_t done, int64_t length) {
  return static_cast<int>(std::min(lanes, length - done));
}

// A vector of which only `count` elements exist in memory. They occupy the lanes where the scan
// begins: the low ones, or the high ones when Reverse.
template <class V, bool Reverse = false, class T>
CORNERNET_INLINE V load_partial(const T* source, int count) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  if (count == kLanes) return load_vector<V>(source);
  T buffer[kLanes] = {};
  for (int i = 0; i < count; ++i) buffer[(Reverse ? kLanes - count : 0) + i] = source[i];
  return load_vector<V>(buffer);
}

template <bool Reverse = false, class V, class T>
CORNERNET_INLINE void store_partial(T* target, V value, int count) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  if (count == kLanes) return store_vector(target, value);
  T buffer[kLanes];
  store_vector(buffer, value);
  for (int i = 0; i < count; ++i) target[i] = buffer[(Reverse ? kLanes - count : 0) + i];
}

}  // namespace cornernet_d2
