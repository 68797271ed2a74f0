// Vertical scans: neighbouring lines lie side by side, a block's warps share the columns' length.
//
// A block is kWarp x `segments` threads. Lane x owns N neighbouring lines (coalesced); warp y owns
// R consecutive positions of the current tile of segments * R positions.
#pragma once

#include "common.cuh"

namespace cornernet_d2 {
namespace gpu {

struct Lines {
  int64_t unit;  // group of N lines, over all outer slices
  bool active;

  template <int N>
  __device__ static Lines of(const Plan& plan) {
    const int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
    const bool active = unit < plan.outer_count() * (plan.inner / N);
    return {active ? unit : 0, active};
  }
  template <int N>
  __device__ int64_t offset(const Plan& plan, int operand) const {
    const int64_t per_slice = plan.inner / N;
    return plan.offset(unit / per_slice, operand) + unit % per_slice * N;
  }
};

// A thread's place on its lines within one tile.
struct Segment {
  int64_t first;  // scan position
  int64_t scan;
  bool active, reverse;

  __device__ bool inside(int r) const { return active && first + r < scan; }
  __device__ int64_t position(int r) const {
    return reverse ? scan - 1 - first - r : first + r;
  }
};

// Keys of the segment's positions; kLowest outside the map.
template <class F, int N, int R, class Bits>
__device__ __forceinline__ void load_keys(
    Pack<Bits, N> (&key)[R], const Segment& segment, const Bits* x, int64_t stride) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const bool inside = segment.inside(r);
    if (inside) key[r] = load<N>(x + segment.position(r) * stride);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      key[r].value[n] = inside ? Bits(to_key<F>(key[r].value[n])) : kLowest<Bits>;
    }
  }
}

template <class F, int N, int R, class Bits>
__device__ __forceinline__ void load_grads(
    typename F::Sum (&grad)[R][N], const Segment& segment, const Bits* grad_y, int64_t stride) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
    Pack<Bits, N> pack{};
    if (segment.inside(r)) pack = load<N>(grad_y + segment.position(r) * stride);
#pragma unroll
    for (int n = 0; n < N; ++n) grad[r][n] = F::widen(pack.value[n]);
  }
}

template <class F, int N, int R, class Bits>
__device__ __forceinline__ void store_grads(
    const typename F::Sum (&grad)[R][N], const Segment& segment, Bits* grad_x, int64_t stride) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
    Pack<Bits, N> pack;
#pragma unroll
    for (int n = 0; n < N; ++n) pack.value[n] = F::narrow(grad[r][n]);
    if (segment.inside(r)) store<N>(grad_x + segment.position(r) * stride, pack);
  }
}

// Publishes a segment's maxima and returns, in `before`, the maxima of all that precedes it;
// `carry` moves from the maxima before the tile to those after it.
template <int N, int Segments, class Bits>
__device__ __forceinline__ void exchange_maxima(
    Bits (&totals)[Segments][N][kWarp], const Bits (&total)[N], Bits (&before)[N],
    Bits (&carry)[N]) {
  for (int n = 0; n < N; ++n) totals[threadIdx.y][n][threadIdx.x] = total[n];
  __syncthreads();
#pragma unroll
  for (int n = 0; n < N; ++n) {
    before[n] = carry[n];
    for (int s = 0; s < static_cast<int>(blockDim.y); ++s) {
      const Bits other = totals[s][n][threadIdx.x];
      if (s < static_cast<int>(threadIdx.y)) before[n] = larger(before[n], other);
      carry[n] = larger(carry[n], other);
    }
  }
  __syncthreads();
}

template <class F, int N>
__global__ void __launch_bounds__(kWarp* kMaxSegments)
    columns_forward(const Args<typename F::Bits> args) {
  using Bits = typename F::Bits;
  constexpr int R = kHeldForward<N>;
  __shared__ Bits totals[kMaxSegments][N][kWarp];
  const Plan& plan = args.plan;
  const Lines lines = Lines::of<N>(plan);
  Bits* y = args.out + lines.offset<N>(plan, 0);
  const Bits* x = args.in + lines.offset<N>(plan, 1);
  Bits carry[N], before[N], total[N];
  for (int n = 0; n < N; ++n) carry[n] = kLowest<Bits>;

  for (int64_t tile = 0; tile < plan.scan; tile += blockDim.y * R) {
    const Segment segment{tile + threadIdx.y * R, plan.scan, lines.active, args.reverse};
    Pack<Bits, N> key[R];
    load_keys<F, N>(key, segment, x, plan.scan_stride[1]);
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int r = 1; r < R; ++r) {
        key[r].value[n] = larger(key[r].value[n], key[r - 1].value[n]);
      }
      total[n] = key[R - 1].value[n];
    }
    exchange_maxima<N>(totals, total, before, carry);
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        key[r].value[n] = from_key<F>(larger(before[n], key[r].value[n]));
      }
      if (segment.inside(r)) store<N>(y + segment.position(r) * plan.scan_stride[0], key[r]);
    }
  }
}

// What the warps of a tile tell each other about their positions of one line.
template <class F, int N>
struct Exchange {
  typename F::Bits totals[kBackwardSegments<N>][N][kWarp];
  typename F::Sum head[kBackwardSegments<N>][N][kWarp];  // gradient before the segment's first start
  typename F::Sum tail[kBackwardSegments<N>][N][kWarp];  // gradient from the segment's last start on
  int16_t start[kBackwardSegments<N>][N][kWarp];         // tile position of that last start, or -1
};

// Bit r: position r is a start, that is, it exceeds everything before it in the scan.
template <class F, int N, int R, int Segments, class Bits>
__device__ __forceinline__ void find_starts(
    uint32_t (&starts)[N], Pack<Bits, N> (&key)[R], Bits (&totals)[Segments][N][kWarp],
    Bits (&carry)[N]) {
  Bits total[N], before[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    total[n] = kLowest<Bits>;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      key[r].value[n] = merge_zeros(key[r].value[n]);
      total[n] = larger(total[n], key[r].value[n]);
    }
  }
  exchange_maxima<N>(totals, total, before, carry);
#pragma unroll
  for (int n = 0; n < N; ++n) {
    starts[n] = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      starts[n] |= uint32_t(key[r].value[n] > before[n]) << r;
      before[n] = larger(before[n], key[r].value[n]);
    }
  }
}

// Publishes head, tail and last start of the segment, for every line of the thread.
template <class F, int N, int R>
__device__ __forceinline__ void publish_runs(
    Exchange<F, N>& shared, const uint32_t (&starts)[N], const typename F::Sum (&grad)[R][N]) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    typename F::Sum head = 0, tail = 0;
    int last = -1;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (starts[n] >> r & 1) {
        if (last < 0) head = tail;
        last = threadIdx.y * R + r;
        tail = 0;
      }
      tail += grad[r][n];
    }
    shared.head[threadIdx.y][n][threadIdx.x] = last < 0 ? tail : head;
    shared.tail[threadIdx.y][n][threadIdx.x] = tail;
    shared.start[threadIdx.y][n][threadIdx.x] = static_cast<int16_t>(last);
  }
  __syncthreads();
}

// Replaces the gradients by what each position collects within this tile.
template <class F, int N, int R>
__device__ __forceinline__ void collect_runs(
    const Exchange<F, N>& shared, const uint32_t (&starts)[N], typename F::Sum (&grad)[R][N]) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    typename F::Sum sum = 0;  // of later segments' positions that belong to this one's last start
    for (int s = threadIdx.y + 1; s < static_cast<int>(blockDim.y); ++s) {
      sum += shared.head[s][n][threadIdx.x];
      if (shared.start[s][n][threadIdx.x] >= 0) break;
    }
#pragma unroll
    for (int r = R - 1; r >= 0; --r) {
      const bool start = starts[n] >> r & 1;
      sum += grad[r][n];
      grad[r][n] = start ? sum : typename F::Sum(0);
      sum = start ? typename F::Sum(0) : sum;
    }
  }
}

// The run of positions that shares a line's maximum when a tile ends.
template <class F>
struct Run {
  int64_t start = -1;  // scan position that collects its gradient
  typename F::Sum sum = 0;
};

// Carries a line's run through the tile that starts at `tile`. Returns whether a run came in: its
// collector then lies in an earlier tile and must be written again, as `entered`.
template <class F, int N>
__device__ __forceinline__ bool carry_run(
    Run<F>& run, Run<F>& entered, const Exchange<F, N>& shared, int n, int64_t tile) {
  const bool came_in = run.start >= 0;
  entered = run;
  bool ended = false;
  for (int s = 0; s < static_cast<int>(blockDim.y); ++s) {
    const int start = shared.start[s][n][threadIdx.x];
    const typename F::Sum head = shared.head[s][n][threadIdx.x];
    if (!ended) entered.sum += head;
    ended = ended || start >= 0;
    run.sum = start < 0 ? run.sum + head : shared.tail[s][n][threadIdx.x];
    run.start = start < 0 ? run.start : tile + start;
  }
  return came_in;
}

template <class F, int N>
__global__ void __launch_bounds__(kWarp* kBackwardSegments<N>)
    columns_backward(const Args<typename F::Bits> args) {
  using Bits = typename F::Bits;
  constexpr int R = kHeldBackward<N>;
  __shared__ Exchange<F, N> shared;
  const Plan& plan = args.plan;
  const Lines lines = Lines::of<N>(plan);
  Bits* grad_x = args.out + lines.offset<N>(plan, 0);
  const Bits* grad_y = args.in + lines.offset<N>(plan, 1);
  const Bits* x = args.key + lines.offset<N>(plan, 2);
  Bits carry[N];
  Run<F> run[N];
  for (int n = 0; n < N; ++n) carry[n] = kLowest<Bits>;

  for (int64_t tile = 0; tile < plan.scan; tile += blockDim.y * R) {
    const Segment segment{tile + threadIdx.y * R, plan.scan, lines.active, args.reverse};
    uint32_t starts[N];
    Pack<Bits, N> pack[R];
    load_keys<F, N>(pack, segment, x, plan.scan_stride[2]);
    find_starts<F, N>(starts, pack, shared.totals, carry);
    typename F::Sum grad[R][N];
    load_grads<F, N>(grad, segment, grad_y, plan.scan_stride[1]);
    publish_runs<F, N>(shared, starts, grad);
    collect_runs<F, N>(shared, starts, grad);
    store_grads<F, N>(grad, segment, grad_x, plan.scan_stride[0]);
    if (plan.scan <= blockDim.y * R) return;  // one tile: no run goes on
#pragma unroll
    for (int n = 0; n < N; ++n) {
      Run<F> entered;
      const bool rewrite = carry_run<F, N>(run[n], entered, shared, n, tile);
      if (rewrite && threadIdx.y == 0 && lines.active) {
        const int64_t at = args.reverse ? plan.scan - 1 - entered.start : entered.start;
        grad_x[at * plan.scan_stride[0] + n] = F::narrow(entered.sum);
      }
    }
    __syncthreads();  // the next tile overwrites `shared` and may write this tile's grad_x again
  }
}

}  // namespace gpu
}  // namespace cornernet_d2
