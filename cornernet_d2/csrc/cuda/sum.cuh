// Vertical pool plus horizontal pool in one pass. A block walks one plane (H, W) in tiles of
// kMaxSegments * kHeldForward rows and kWarp * N columns: the vertical scan combines the block's
// warps as in columns.cuh, the horizontal scan each row's lanes as in rows.cuh.
#pragma once

#include "columns.cuh"
#include "rows.cuh"

namespace cornernet_d2 {
namespace gpu {

// Widest map that the fused kernel takes: it keeps a running maximum a column in shared memory.
constexpr int kSumColumns = 2048;

template <class F, int N, int R, class Bits>
__device__ __forceinline__ void scan_segment(Pack<Bits, N> (&key)[R], Bits (&total)[N]) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int r = 1; r < R; ++r) {
      key[r].value[n] = larger(key[r].value[n], key[r - 1].value[n]);
    }
    total[n] = key[R - 1].value[n];
  }
}

// plan: the vertical plan of (y, vertical, horizontal), with inner == W.
template <class F, int N>
__global__ void __launch_bounds__(kWarp* kMaxSegments)
    sum_forward(const Args<typename F::Bits> args) {
  using Bits = typename F::Bits;
  constexpr int R = kHeldForward<N>;
  __shared__ Bits totals[kMaxSegments][N][kWarp];
  __shared__ Bits above[kSumColumns];
  const Plan& plan = args.plan;
  const int lane_index = threadIdx.x;
  for (int w = threadIdx.y * kWarp + lane_index; w < plan.inner; w += kWarp * blockDim.y) {
    above[w] = kLowest<Bits>;
  }
  Bits* y = args.out + plan.offset(blockIdx.x, 0);
  const Bits* v = args.in + plan.offset(blockIdx.x, 1);
  const Bits* x = args.key + plan.offset(blockIdx.x, 2);
  for (int64_t tile = 0; tile < plan.scan; tile += blockDim.y * R) {
    Bits row_carry[R];
    for (int r = 0; r < R; ++r) row_carry[r] = kLowest<Bits>;
    for (int64_t pass = 0; pass < plan.inner; pass += kWarp * N) {
      const int64_t w = pass + lane_index * N;  // scan position along W
      const bool active = w < plan.inner;
      const Lane lane{lane_index, kWarp, plan.inner, true, args.reverse};
      const int64_t column = lane.memory<N>(active ? w : 0);
      const Segment segment{tile + threadIdx.y * R, plan.scan, active, args.reverse};
      Pack<Bits, N> down[R];
      Bits total[N], before[N], carry[N];
      __syncthreads();  // `above` of the tile before is complete
      load_keys<F, N>(down, segment, v + column, plan.scan_stride[1]);
      scan_segment<F, N>(down, total);
      for (int n = 0; n < N; ++n) carry[n] = active ? above[column + n] : kLowest<Bits>;
      exchange_maxima<N>(totals, total, before, carry);
      if (threadIdx.y == 0 && active) {
        for (int n = 0; n < N; ++n) above[column + n] = carry[n];
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const bool inside = segment.inside(r);
        const Lane row{lane_index, kWarp, plan.inner, segment.first + r < plan.scan, args.reverse};
        const int64_t h = row.active ? segment.position(r) : 0;
        Pack<Bits, N> across = load_row_keys<F, N>(row, x + h * plan.scan_stride[2], w);
#pragma unroll
        for (int n = 1; n < N; ++n) across.value[n] = larger(across.value[n], across.value[n - 1]);
        const Bits left = exclusive_maximum(across.value[N - 1], row_carry[r], row);
#pragma unroll
        for (int n = 0; n < N; ++n) across.value[n] = larger(left, across.value[n]);
        across = reversed(across, args.reverse);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const Bits vertical = from_key<F>(larger(before[n], down[r].value[n]));
          const Bits horizontal = from_key<F>(across.value[n]);
          across.value[n] = F::narrow(F::widen(vertical) + F::widen(horizontal));
        }
        if (inside) store<N>(y + h * plan.scan_stride[0] + column, across);
      }
    }
  }
}

}  // namespace gpu
}  // namespace cornernet_d2
