// Horizontal scans along contiguous memory: `width` lanes of a warp share a row.
//
// A lane owns N neighbouring elements of the current pass of width * N elements; lanes combine by
// shuffles, so nothing is transposed and no shared memory is used.
#pragma once

#include "common.cuh"

namespace cornernet_d2 {
namespace gpu {

// A lane's place in its row during one pass.
struct Lane {
  int index, width;
  int64_t scan;
  bool active, reverse;

  // Memory index of N elements that begin at scan position `position`.
  template <int N>
  __device__ int64_t memory(int64_t position) const {
    return reverse ? scan - N - position : position;
  }
};

template <int N, class Bits>
__device__ __forceinline__ Pack<Bits, N> reversed(const Pack<Bits, N>& pack, bool reverse) {
  Pack<Bits, N> result;
#pragma unroll
  for (int n = 0; n < N; ++n) result.value[n] = reverse ? pack.value[N - 1 - n] : pack.value[n];
  return result;
}

template <class T>
__device__ __forceinline__ T shuffle_up(T value, int delta, int width) {
  if constexpr (sizeof(T) == 2) {
    return static_cast<T>(__shfl_up_sync(kAllLanes, static_cast<int>(value), delta, width));
  } else {
    return __shfl_up_sync(kAllLanes, value, delta, width);
  }
}

template <class T>
__device__ __forceinline__ T shuffle_from(T value, int lane, int width) {
  if constexpr (sizeof(T) == 2) {
    return static_cast<T>(__shfl_sync(kAllLanes, static_cast<int>(value), lane, width));
  } else {
    return __shfl_sync(kAllLanes, value, lane, width);
  }
}

// Keys in scan order; kLowest outside the row.
template <class F, int N, class Bits>
__device__ __forceinline__ Pack<Bits, N> load_row_keys(
    const Lane& lane, const Bits* row, int64_t position) {
  const bool inside = lane.active && position < lane.scan;
  Pack<Bits, N> key{};
  if (inside) key = reversed(load<N>(row + lane.memory<N>(position)), lane.reverse);
#pragma unroll
  for (int n = 0; n < N; ++n) {
    key.value[n] = inside ? Bits(to_key<F>(key.value[n])) : kLowest<Bits>;
  }
  return key;
}

// From a lane's maximum to the maximum before the lane; `carry` moves on by one pass.
template <class Bits>
__device__ __forceinline__ Bits exclusive_maximum(Bits total, Bits& carry, const Lane& lane) {
  for (int delta = 1; delta < lane.width; delta *= 2) {
    const Bits other = shuffle_up(total, delta, lane.width);
    if (lane.index >= delta) total = larger(total, other);
  }
  const Bits previous = shuffle_up(total, 1, lane.width);
  const Bits before = lane.index > 0 ? larger(previous, carry) : carry;
  carry = larger(carry, shuffle_from(total, lane.width - 1, lane.width));
  return before;
}

__device__ __forceinline__ int64_t global_row(int width) {
  return (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / width;
}

template <class F, int N>
__global__ void __launch_bounds__(kRowThreads)
    rows_forward(const Args<typename F::Bits> args, int width) {
  using Bits = typename F::Bits;
  const Plan& plan = args.plan;
  const int64_t row = global_row(width);
  const Lane lane{static_cast<int>(threadIdx.x) % width, width, plan.scan,
                  row < plan.outer_count(), args.reverse};
  Bits* y = args.out + plan.offset(lane.active ? row : 0, 0);
  const Bits* x = args.in + plan.offset(lane.active ? row : 0, 1);
  Bits carry = kLowest<Bits>;
  for (int64_t pass = 0; pass < plan.scan; pass += width * N) {
    const int64_t position = pass + lane.index * N;
    Pack<Bits, N> key = load_row_keys<F, N>(lane, x, position);
#pragma unroll
    for (int n = 1; n < N; ++n) key.value[n] = larger(key.value[n], key.value[n - 1]);
    const Bits before = exclusive_maximum(key.value[N - 1], carry, lane);
#pragma unroll
    for (int n = 0; n < N; ++n) key.value[n] = from_key<F>(larger(before, key.value[n]));
    if (lane.active && position < plan.scan) {
      store<N>(y + lane.memory<N>(position), reversed(key, lane.reverse));
    }
  }
}

// Bit n: element n exceeds everything before it in the scan (it is a start).
template <int N, class Bits>
__device__ __forceinline__ uint32_t row_starts(Pack<Bits, N> key, Bits& carry, const Lane& lane) {
  Bits total = kLowest<Bits>;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    key.value[n] = merge_zeros(key.value[n]);
    total = larger(total, key.value[n]);
  }
  Bits before = exclusive_maximum(total, carry, lane);
  uint32_t starts = 0;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    starts |= uint32_t(key.value[n] > before) << n;
    before = larger(before, key.value[n]);
  }
  return starts;
}

// Gradient before the lane's first start plus that of the lanes after it, up to and with the first
// lane that has a start: what flows back out of this lane.
template <class Sum>
__device__ __forceinline__ Sum suffix_heads(Sum head, bool closed, const Lane& lane) {
  for (int delta = 1; delta < lane.width; delta *= 2) {
    const Sum other = __shfl_down_sync(kAllLanes, head, delta, lane.width);
    const int other_closed = __shfl_down_sync(kAllLanes, int(closed), delta, lane.width);
    if (lane.index + delta < lane.width && !closed) {
      head += other;
      closed = other_closed;
    }
  }
  return head;
}

template <class F, int N>
__device__ __forceinline__ void load_row_grads(
    typename F::Sum (&grad)[N], const Lane& lane, const typename F::Bits* row, int64_t position) {
  Pack<typename F::Bits, N> pack{};
  if (lane.active && position < lane.scan) {
    pack = reversed(load<N>(row + lane.memory<N>(position)), lane.reverse);
  }
#pragma unroll
  for (int n = 0; n < N; ++n) grad[n] = F::widen(pack.value[n]);
}

// The last start of the lanes before a pass, and the gradient that it has collected so far.
template <class Sum>
struct RowRun {
  int64_t start = -1;
  Sum sum = 0;
};

// Moves the run on by one pass: the last lane with a start takes over.
template <class Sum>
__device__ __forceinline__ void carry_row_run(
    RowRun<Sum>& run, int64_t last_start, Sum last_sum, Sum flowed_out, const Lane& lane) {
  run.sum += shuffle_from(flowed_out, 0, lane.width);
  for (int other = 0; other < lane.width; ++other) {
    const int64_t start = shuffle_from(last_start, other, lane.width);
    const Sum sum = shuffle_from(last_sum, other, lane.width);
    if (start >= 0) run = {start, sum};
  }
}

template <class F, int N>
__global__ void __launch_bounds__(kRowThreads)
    rows_backward(const Args<typename F::Bits> args, int width) {
  using Bits = typename F::Bits;
  using Sum = typename F::Sum;
  const Plan& plan = args.plan;
  const int64_t row = global_row(width);
  const Lane lane{static_cast<int>(threadIdx.x) % width, width, plan.scan,
                  row < plan.outer_count(), args.reverse};
  Bits* grad_x = args.out + plan.offset(lane.active ? row : 0, 0);
  const Bits* grad_y = args.in + plan.offset(lane.active ? row : 0, 1);
  const Bits* x = args.key + plan.offset(lane.active ? row : 0, 2);
  Bits carry = kLowest<Bits>;
  RowRun<Sum> run;
  for (int64_t pass = 0; pass < plan.scan; pass += width * N) {
    const int64_t position = pass + lane.index * N;
    const uint32_t starts = row_starts(load_row_keys<F, N>(lane, x, position), carry, lane);
    Sum grad[N], head = 0;
    load_row_grads<F, N>(grad, lane, grad_y, position);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if ((starts & ((2u << n) - 1)) == 0) head += grad[n];
    }
    const Sum flowed_out = suffix_heads(head, starts != 0, lane);
    const Sum from_next = __shfl_down_sync(kAllLanes, flowed_out, 1, width);
    Sum sum = lane.index + 1 < width ? from_next : Sum(0), last_sum = 0;
    int64_t last_start = -1;
    Pack<Bits, N> pack;
#pragma unroll
    for (int n = N - 1; n >= 0; --n) {
      sum += grad[n];
      const bool start = starts >> n & 1;
      if (start && last_start < 0) {
        last_start = position + n;
        last_sum = sum;
      }
      pack.value[n] = F::narrow(start ? sum : Sum(0));
      sum = start ? Sum(0) : sum;
    }
    if (lane.active && position < plan.scan) {
      store<N>(grad_x + lane.memory<N>(position), reversed(pack, lane.reverse));
    }
    if (plan.scan <= width * N) return;  // one pass: no run goes on
    const Sum entered = run.sum + shuffle_from(flowed_out, 0, width);
    if (lane.index == 0 && lane.active && run.start >= 0) {
      grad_x[lane.memory<1>(run.start)] = F::narrow(entered);
    }
    carry_row_run(run, last_start, last_sum, flowed_out, lane);
    __syncwarp();  // a later pass may write the same element again
  }
}

}  // namespace gpu
}  // namespace cornernet_d2
