// Scans across memory: neighbouring lines lie side by side, and a block shares their length.
//
// A block is (lanes, segments) threads. Lane x owns N neighbouring lines. Segment y owns kHeld
// consecutive cells of the current tile of segments * kHeld cells: an array [kHeld] of packs is
// (cells in scan order, lines). One tile covers lines up to kMaxSegments * kHeld = 512 cells.
#pragma once

#include "common.cuh"

namespace cornernet_d2 {
namespace gpu {

constexpr int kHeld = 8;
constexpr int kMaxSegments = 64;
constexpr int kColumnThreads = 256;

// The lines of a thread: where they begin in every operand, and whether there are any for it.
template <class T, int N, int Operands>
struct Lines {
  const Args<T>& args;
  int64_t offset[Operands] = {};
  bool active;

  CORNERNET_DEVICE explicit Lines(const Args<T>& args) : args(args) {
    const uint32_t in_slice = static_cast<uint32_t>(args.plan.inner / N);
    const uint32_t group = blockIdx.x * blockDim.x + threadIdx.x, slice = group / in_slice;
#pragma unroll
    for (int i = 0; i < Operands; ++i) {
      offset[i] = static_cast<int64_t>(group - slice * in_slice) * N;
    }
    active = locate<2>(args.plan, slice, offset);
  }
  // The cells from scan position `first` on.
  template <class P>
  CORNERNET_DEVICE Path<P> path(P* operand, int i, int first) const {
    const int64_t stride = args.plan.scan_stride[i];
    const int64_t cell = args.reverse ? args.plan.scan - 1 - first : first;
    return {operand + offset[i] + cell * stride, args.reverse ? -stride : stride};
  }
};

// `carry` and the maxima of the segments [begin, end), each as its thread published it.
template <class T, int N>
CORNERNET_DEVICE Pack<T, N> fold_maxima(
    const Pack<T, N>* totals, int begin, int end, Pack<T, N> carry) {
  for (int s = begin; s < end; ++s) {
    carry = maximum(carry, totals[s * blockDim.x + threadIdx.x]);
  }
  return carry;
}

// y = pool(x), or y += pool(x) if Add.
template <class T, int N, bool Add>
__global__ void __launch_bounds__(kColumnThreads) columns_forward(const Args<T> args) {
  __shared__ Pack<T, N> totals[kColumnThreads];
  const Lines<T, N, 2> lines(args);
  const int scan = static_cast<int>(args.plan.scan), tile = blockDim.y * kHeld;
  Pack<T, N> carry = filled<T, N>(-INFINITY);
  for (int start = 0; start < scan; start += tile) {
    const int first = start + threadIdx.y * kHeld, count = lines.active ? scan - first : 0;
    const Path<T> out = lines.path(args.out, 0, first);
    Pack<T, N> value[kHeld], addend[kHeld];
    load(value, lines.path(args.in, 1, first), count, -INFINITY);
    if constexpr (Add) load(addend, Path<const T>{out.at, out.step}, count, 0);
#pragma unroll
    for (int r = 1; r < kHeld; ++r) value[r] = maximum(value[r], value[r - 1]);
    totals[threadIdx.y * blockDim.x + threadIdx.x] = value[kHeld - 1];
    __syncthreads();
    const Pack<T, N> before = fold_maxima(totals, 0, threadIdx.y, carry);
    if (start + tile < scan) {
      carry = fold_maxima(totals, threadIdx.y, blockDim.y, before);
      __syncthreads();  // the next tile overwrites `totals`
    }
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      value[r] = maximum(value[r], before);
      if constexpr (Add) value[r] = plus(value[r], addend[r]);
    }
    store(out, count, value);
  }
}

// The maximum of all cells before `start`, for lines of more than one tile: they are read again.
template <class T, int N>
CORNERNET_DEVICE Pack<T, N> maximum_before(
    int start, Path<const T> x, bool active, Pack<T, N>* totals) {
  Pack<T, N> total = filled<T, N>(-INFINITY);
  for (int cell = threadIdx.y; active && cell < start; cell += blockDim.y) {
    total = maximum(total, load<N>(x.at + cell * x.step));
  }
  totals[threadIdx.y * blockDim.x + threadIdx.x] = total;
  __syncthreads();
  total = fold_maxima(totals, 0, blockDim.y, filled<T, N>(-INFINITY));
  __syncthreads();
  return total;
}

// Marks the cells that exceed everything before them: the starts, which collect gradients.
// Bit n * kHeld + r is cell r of line n.
template <class T, int N>
CORNERNET_DEVICE Bits<N * kHeld> find_starts(
    const Pack<T, N> (&x)[kHeld], const Pack<T, N>& before, bool first) {
  Bits<N * kHeld> starts;
  Wide<T, N> largest = widen(before);
#pragma unroll
  for (int r = 0; r < kHeld; ++r) {
    const Wide<T, N> value = widen(x[r]);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const bool start = exceeds(value.word[n], largest.word[n]);
      starts.set(n * kHeld + r, r == 0 ? start || first : start);
    }
    largest = maximum(largest, value);
  }
  return starts;
}

// What a segment passes on to those before it: the gradient of its cells before the first start,
// and, as bit n of `closed`, whether line n has a start, beyond which nothing flows.
template <class T, int N>
struct Heads {
  Wide<T, N> sum[kColumnThreads];
  uint32_t closed[kColumnThreads];

  CORNERNET_DEVICE void publish(
      const Bits<N * kHeld>& starts, const Pack<T, N> (&grad)[kHeld]) {
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    Wide<T, N> head = {};
#pragma unroll
    for (int r = kHeld - 1; r >= 0; --r) {
      head = plus(head, widen(grad[r]));
#pragma unroll
      for (int n = 0; n < N; ++n) head.word[n] = starts[n * kHeld + r] ? 0 : head.word[n];
    }
    uint32_t lines = 0;
#pragma unroll
    for (int n = 0; n < N; ++n) lines |= uint32_t(starts.any(n * kHeld, kHeld)) << n;
    sum[thread] = head;
    closed[thread] = lines;
  }
  // Carries what flows into segment `last` through the segments last, last - 1, ..., first.
  CORNERNET_DEVICE void flow(int last, int first, Wide<T, N>& carry) const {
    for (int s = last; s >= first; --s) {
      const int thread = s * blockDim.x + threadIdx.x;
      const uint32_t lines = closed[thread];
#pragma unroll
      for (int n = 0; n < N; ++n) carry.word[n] = lines >> n & 1 ? 0 : carry.word[n];
      carry = plus(sum[thread], carry);
    }
  }
};

// Replaces gradients by what each cell collects; `sum` comes in from the cells after the segment.
template <class T, int N>
CORNERNET_DEVICE void collect(
    const Bits<N * kHeld>& starts, Wide<T, N> sum, Pack<T, N> (&grad)[kHeld]) {
#pragma unroll
  for (int r = kHeld - 1; r >= 0; --r) {
    Wide<T, N> collected;
    forget_widened(grad[r]);
    sum = plus(sum, widen(grad[r]));
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const bool start = starts[n * kHeld + r];
      collected.word[n] = start ? sum.word[n] : 0;
      sum.word[n] = start ? 0 : sum.word[n];
    }
    grad[r] = narrow<T, N>(collected);
  }
}

// Tiles run from the last to the first, as gradients flow. Blocks an SM: as many as the compiler
// reaches without spilling.
template <class T, int N>
__global__ void __launch_bounds__(kColumnThreads, N == 4 ? 2 : 1) columns_backward(const Args<T> args) {
  __shared__ Pack<T, N> totals[kColumnThreads];
  __shared__ Heads<T, N> heads;
  const Lines<T, N, 3> lines(args);
  const int scan = static_cast<int>(args.plan.scan), tile = blockDim.y * kHeld;
  Wide<T, N> later = {};  // gradient that flows in from the tiles after this one
  for (int start = (scan - 1) / tile * tile; start >= 0; start -= tile) {
    const int first = start + threadIdx.y * kHeld, count = lines.active ? scan - first : 0;
    Pack<T, N> x[kHeld], grad[kHeld], before = filled<T, N>(-INFINITY);
    load(x, lines.path(args.second, 2, first), count, -INFINITY);
    load(grad, lines.path(args.in, 1, first), count, 0);
    if (start > 0) {
      before = maximum_before(start, lines.path(args.second, 2, 0), lines.active, totals);
    }
    Pack<T, N> total = x[0];
#pragma unroll
    for (int r = 1; r < kHeld; ++r) total = maximum(total, x[r]);
    totals[threadIdx.y * blockDim.x + threadIdx.x] = total;
    __syncthreads();
    before = fold_maxima(totals, 0, threadIdx.y, before);
    const Bits<N * kHeld> starts = find_starts(x, before, first == 0);
    heads.publish(starts, grad);
    __syncthreads();
    heads.flow(blockDim.y - 1, threadIdx.y + 1, later);
    collect(starts, later, grad);
    store(lines.path(args.out, 0, first), count, grad);
    if (start > 0) heads.flow(threadIdx.y, 0, later);
  }
}

}  // namespace gpu
}  // namespace cornernet_d2
