// Scans along memory: `width` lanes of a warp share a row and combine by shuffles, so that nothing
// is transposed and no shared memory is used.
//
// A lane holds kVectors packs of N neighbouring cells: an array [kVectors] of packs is (vectors,
// cells in scan order). If width * N covers a row, the vectors belong to consecutive rows; if not,
// to as many passes over one row, and rows longer than kVectors passes take several tiles of them.
#pragma once

#include "common.cuh"

namespace cornernet_d2 {
namespace gpu {

constexpr int kVectors = 4;
constexpr int kWarp = 32;
constexpr int kRowThreads = 128;

// The rows of a thread: where its first vector lies in every operand, and how many rows there are.
template <class T, int N, int Operands>
struct Rows {
  const Args<T>& args;
  const int width, scan, lane;  // lane: among those that share a row
  const bool many;              // the vectors belong to consecutive rows
  int rows;
  int64_t offset[Operands] = {};

  CORNERNET_DEVICE explicit Rows(const Args<T>& args)
      : args(args), width(args.width), scan(static_cast<int>(args.plan.scan)),
        lane(threadIdx.x & (width - 1)), many(scan <= width * N) {
    const uint32_t held = many ? kVectors : 1, size = static_cast<uint32_t>(args.plan.outer[2]);
    const uint32_t in_slice = (size + held - 1) / held;  // groups of `held` rows
    const uint32_t group = blockIdx.x * (kRowThreads / width) + threadIdx.x / width;
    const uint32_t slice = group / in_slice, first = (group - slice * in_slice) * held;
#pragma unroll
    for (int i = 0; i < Operands; ++i) {
      offset[i] = first * args.plan.outer_stride[2][i] +
          (args.reverse ? scan - N - lane * N : lane * N);
    }
    rows = locate<1>(args.plan, slice, offset) ? size - first : 0;
  }
  CORNERNET_DEVICE int tile() const { return kVectors * width * N; }
  // The lane's vectors from scan position `start` on, and how many of them are in the map.
  template <class P>
  CORNERNET_DEVICE Path<P> path(P* operand, int i, int start) const {
    const int64_t next = args.reverse ? -width * N : width * N;
    return {operand + offset[i] + (args.reverse ? -start : start),
            many ? args.plan.outer_stride[2][i] : next};
  }
  CORNERNET_DEVICE int count(int start) const {
    const int cells = scan - start - lane * N;
    if (many) return cells > 0 ? rows : 0;
    return rows > 0 ? (cells + width * N - 1) / (width * N) : 0;
  }
  // From memory order to scan order or back.
  CORNERNET_DEVICE Pack<T, N> ordered(Pack<T, N> pack) const {
    uint32_t word[sizeof(pack) / 4];
    memcpy(word, &pack, sizeof(pack));
    const unsigned mirror = sizeof(T) == 2 ? 0x5476 : 0x7654;  // halves change places
#pragma unroll
    for (int k = 0; k < pack.kWords && N != 1; ++k) {
      reinterpret_cast<uint32_t&>(pack.word[k]) = __byte_perm(
          word[k], word[pack.kWords - 1 - k], args.reverse ? mirror : 0x3210);
    }
    return pack;
  }
};

// From each vector's maximum to the maximum before the vector; `carry` is the one before them all
// and, within one row, moves on.
template <class A, class R>
CORNERNET_DEVICE void maxima_before(A (&total)[kVectors], A& carry, const R& rows) {
  for (int delta = 1; delta < rows.width; delta *= 2) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {  // the first lanes get their own maximum back
      total[k] = maximum(total[k], __shfl_up_sync(kAllLanes, total[k], delta, rows.width));
    }
  }
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const A previous = __shfl_up_sync(kAllLanes, total[k], 1, rows.width);
    const A last = total[k];
    total[k] = rows.lane == 0 ? carry : maximum(previous, carry);
    if (!rows.many) {
      carry = maximum(carry, __shfl_sync(kAllLanes, last, rows.width - 1, rows.width));
    }
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kRowThreads) rows_forward(const Args<T> args) {
  using A = Accumulator<T>;
  const Rows<T, N, 2> rows(args);
  A carry = -INFINITY;
  for (int start = 0; start < rows.scan; start += rows.tile()) {
    Pack<T, N> pack[kVectors];
    load(pack, rows.path(args.in, 1, start), rows.count(start), -INFINITY);
    Wide<T, N> value[kVectors];
    A before[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      value[k] = widen(rows.ordered(pack[k]));
#pragma unroll
      for (int n = 1; n < N; ++n) {
        value[k].word[n] = maximum(value[k].word[n], value[k].word[n - 1]);
      }
      before[k] = value[k].word[N - 1];
    }
    maxima_before(before, carry, rows);
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
#pragma unroll
      for (int n = 0; n < N; ++n) value[k].word[n] = maximum(value[k].word[n], before[k]);
      pack[k] = rows.ordered(narrow<T, N>(value[k]));
    }
    store(rows.path(args.out, 0, start), rows.count(start), pack);
  }
}

// The maximum of all cells before `start`, for rows of more than one tile: they are read again.
template <class T, int N>
CORNERNET_DEVICE Accumulator<T> maximum_before(int start, const Rows<T, N, 3>& rows) {
  using A = Accumulator<T>;
  Path<const T> x = rows.path(rows.args.second, 2, 0);
  A total = -INFINITY;
  for (int at = rows.lane * N; at < start; at += rows.width * N, x.at += x.step) {
    if (rows.rows > 0) total = maximum(total, largest(load<N>(x.at)));
  }
  for (int delta = 1; delta < rows.width; delta *= 2) {
    total = maximum(total, __shfl_sync(kAllLanes, total, rows.lane + delta, rows.width));
  }
  return total;
}

// Marks the cells that exceed everything before them: the starts, which collect gradients.
// Bit k * N + n is cell n of vector k.
template <class T, int N>
CORNERNET_DEVICE Bits<kVectors * N> find_starts(
    const Pack<T, N> (&x)[kVectors], Accumulator<T> carry, int start, const Rows<T, N, 3>& rows) {
  Accumulator<T> before[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    before[k] = largest(x[k]);
  }
  maxima_before(before, carry, rows);
  Bits<kVectors * N> starts;
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const bool first = start == 0 && rows.lane == 0 && (rows.many || k == 0);
    const Wide<T, N> value = widen(x[k]);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const bool is_start = exceeds(value.word[n], before[k]);
      starts.set(k * N + n, n == 0 ? is_start || first : is_start);
      before[k] = maximum(before[k], value.word[n]);
    }
  }
  return starts;
}

// The gradient that flows into each vector from those after it, up to and with the first that has a
// start. `later` flows into the last vector and, within one row, moves on to what leaves the first.
template <class T, int N>
CORNERNET_DEVICE void gather_heads(
    Accumulator<T> (&incoming)[kVectors], Accumulator<T>& later, const Bits<kVectors * N>& starts,
    const Pack<T, N> (&grad)[kVectors], const Rows<T, N, 3>& rows) {
  using A = Accumulator<T>;
  A head[kVectors];           // of this lane and the lanes after it, as far as gradient flows
  uint32_t closed[kVectors];  // bit i: lane i of the row has a start
  int reach[kVectors];        // lanes from here to the one where the flow ends
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const Wide<T, N> value = widen(grad[k]);
    head[k] = 0;
#pragma unroll
    for (int n = N - 1; n >= 0; --n) {
      head[k] += value.word[n];
      head[k] = starts[k * N + n] ? 0 : head[k];
    }
    closed[k] = __ballot_sync(kAllLanes, starts.any(k * N, N)) >>
        (threadIdx.x & (kWarp - 1) & ~(rows.width - 1)) & (kAllLanes >> (kWarp - rows.width));
    reach[k] = __ffs(closed[k] >> rows.lane | 1u << (rows.width - 1 - rows.lane)) - 1;
  }
  for (int delta = 1; delta < rows.width; delta *= 2) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const A other = __shfl_down_sync(kAllLanes, head[k], delta, rows.width);
      head[k] += delta <= reach[k] ? other : 0;
    }
  }
#pragma unroll
  for (int k = kVectors - 1; k >= 0; --k) {
    const A next = __shfl_down_sync(kAllLanes, head[k], 1, rows.width);
    incoming[k] = (rows.lane + 1 < rows.width ? next : 0) +
        (closed[k] >> rows.lane >> 1 == 0 ? later : 0);
    if (!rows.many) {
      later = __shfl_sync(kAllLanes, head[k], 0, rows.width) + (closed[k] == 0 ? later : 0);
    }
  }
}

// Tiles run from the last to the first, as gradients flow.
template <class T, int N>
__global__ void __launch_bounds__(kRowThreads) rows_backward(const Args<T> args) {
  using A = Accumulator<T>;
  const Rows<T, N, 3> rows(args);
  A later = 0;  // gradient that flows in from the tiles after this one
  for (int start = (rows.scan - 1) / rows.tile() * rows.tile(); start >= 0; start -= rows.tile()) {
    Pack<T, N> x[kVectors], grad[kVectors];
    const int count = rows.count(start);
    load(x, rows.path(args.second, 2, start), count, -INFINITY);
    load(grad, rows.path(args.in, 1, start), count, 0);
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      x[k] = rows.ordered(x[k]);
      grad[k] = rows.ordered(grad[k]);
    }
    const A carry = start > 0 ? maximum_before(start, rows) : A(-INFINITY);
    const Bits<kVectors * N> starts = find_starts(x, carry, start, rows);
    A sum[kVectors];
    gather_heads(sum, later, starts, grad, rows);
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      Wide<T, N> value = widen(grad[k]);
#pragma unroll
      for (int n = N - 1; n >= 0; --n) {
        const bool is_start = starts[k * N + n];
        sum[k] += value.word[n];
        value.word[n] = is_start ? sum[k] : 0;
        sum[k] = is_start ? 0 : sum[k];
      }
      grad[k] = rows.ordered(narrow<T, N>(value));
    }
    store(rows.path(args.out, 0, start), count, grad);
  }
}

}  // namespace gpu
}  // namespace cornernet_d2
