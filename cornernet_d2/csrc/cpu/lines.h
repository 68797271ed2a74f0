// Scans of lines that lie side by side: columns of NCHW maps, every line of channels_last maps.
#pragma once

#include "common.h"

#include <memory>

namespace cornernet_d2 {

// One step of a vertical scan: y_row = maximum = max(maximum, x_row), over `lines` lines.
template <class Format, int Bytes, class Bits>
CORNERNET_INLINE void scan_line_row(
    Bits* y_row, const Bits* x_row, Bits* maximum, int64_t lines, int64_t y_ahead,
    int64_t x_ahead) {
  using V = Vec<Bits, Bytes>;
  constexpr int kLanes = VectorOf<Bits, Bytes>::kLanes;
  for (int64_t j = 0; j < lines; j += kLanes) {
    const int count = lanes_left(kLanes, j, lines);
    __builtin_prefetch(x_row + j + x_ahead);
    __builtin_prefetch(y_row + j + y_ahead, 1);
    const V key = to_key<Format>(load_partial<V>(x_row + j, count));
    const V larger = max_vector(load_vector<V>(maximum + j), key);
    store_vector(maximum + j, larger);
    store_partial(y_row + j, from_key<Format>(larger), count);
  }
}

template <class Format>
struct LinesForward {
  using Bits = typename Format::Bits;

  template <int Bytes>
  CORNERNET_INLINE static void run(const PoolArgs<Bits>& args, int64_t begin, int64_t end) {
    const Plan& plan = args.plan;
    const int64_t blocks = (plan.inner + args.block - 1) / args.block;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * args.block;
      const int64_t lines = std::min(args.block, plan.inner - first);
      Bits* y = args.out + plan.offset(task / blocks, 0) + first;
      const Bits* x = args.in + plan.offset(task / blocks, 1) + first;
      alignas(64) Bits maximum[kLineBlock];
      std::fill_n(maximum, kLineBlock, kLowest<Bits>);
      const int64_t bytes = lines * sizeof(Bits);
      const int64_t next = task + 1 < end ? task + 1 : task;
      const int64_t next_first = next % blocks * args.block - first;
      const int64_t y_next = plan.offset(next / blocks, 0) - plan.offset(task / blocks, 0);
      const int64_t x_next = plan.offset(next / blocks, 1) - plan.offset(task / blocks, 1);
      for (int64_t i = 0; i < plan.scan; ++i) {
        const int64_t position = args.reverse ? plan.scan - 1 - i : i;
        scan_line_row<Format, Bytes>(
            y + position * plan.scan_stride[0], x + position * plan.scan_stride[1], maximum, lines,
            line_ahead(plan, 0, y_next + next_first, i, args.reverse, bytes),
            line_ahead(plan, 1, x_next + next_first, i, args.reverse, bytes));
      }
    }
  }
};

template <class Format>
struct LinesBackward {
  using Bits = typename Format::Bits;
  using Accumulator = typename Format::Accumulator;

  template <int Bytes>
  CORNERNET_INLINE static void run(const PoolArgs<Bits>& args, int64_t begin, int64_t end) {
    const Plan& plan = args.plan;
    const int64_t blocks = (plan.inner + args.block - 1) / args.block;
    const std::unique_ptr<int8_t[]> flags(new int8_t[plan.scan * args.block]);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * args.block;
      const int64_t lines = std::min(args.block, plan.inner - first);
      flag_maxima<Bytes>(args, args.key + plan.offset(task / blocks, 2) + first, lines,
                         flags.get());
      route<Bytes>(args, args.out + plan.offset(task / blocks, 0) + first,
                   args.in + plan.offset(task / blocks, 1) + first, lines, flags.get());
    }
  }

  // flags[i][j] = -1 where position i of line j exceeds everything before it in the scan, else 0.
  template <int Bytes>
  CORNERNET_INLINE static void flag_maxima(
      const PoolArgs<Bits>& args, const Bits* x, int64_t lines, int8_t* flags) {
    using V = Vec<Bits, Bytes>;
    constexpr int kLanes = VectorOf<Bits, Bytes>::kLanes;
    alignas(64) Bits maximum[kLineBlock];
    std::fill_n(maximum, kLineBlock, kLowest<Bits>);
    const Plan& plan = args.plan;
    const int64_t ahead =
        (args.reverse ? -1 : 1) * rows_ahead(lines * sizeof(Bits)) * plan.scan_stride[2];
    for (int64_t i = 0; i < plan.scan; ++i) {
      const int64_t position = args.reverse ? plan.scan - 1 - i : i;
      const Bits* row = x + position * plan.scan_stride[2];
      for (int64_t j = 0; j < lines; j += kLanes) {
        const int count = lanes_left(kLanes, j, lines);
        __builtin_prefetch(row + j + ahead);
        const V key = merge_zeros(to_key<Format>(load_partial<V>(row + j, count)));
        const V before = load_vector<V>(maximum + j);
        store_vector(maximum + j, max_vector(before, key));
        store_partial(flags + i * args.block + j,
                      convert_flags<int8_t>(key > before), count);
      }
    }
  }

  // Walks back along the scan, summing gradients until the maximum they belong to is met.
  template <int Bytes>
  CORNERNET_INLINE static void route(
      const PoolArgs<Bits>& args, Bits* grad_x, const Bits* grad_y, int64_t lines,
      const int8_t* flags) {
    using Sum = Vec<Accumulator, Bytes>;
    constexpr int kLanes = VectorOf<Accumulator, Bytes>::kLanes;
    using MaskBits = typename MaskOf<Accumulator>::type;
    using Mask = Vec<MaskBits, Bytes>;
    using Stored = Vec<Bits, kLanes * sizeof(Bits)>;
    alignas(64) Accumulator sums[kLineBlock] = {};
    const Plan& plan = args.plan;
    const int64_t ahead = (args.reverse ? 1 : -1) * rows_ahead(lines * sizeof(Bits));
    for (int64_t i = plan.scan - 1; i >= 0; --i) {
      const int64_t position = args.reverse ? plan.scan - 1 - i : i;
      Bits* out_row = grad_x + position * plan.scan_stride[0];
      const Bits* in_row = grad_y + position * plan.scan_stride[1];
      const int8_t* flag_row = flags + i * args.block;
      for (int64_t j = 0; j < lines; j += kLanes) {
        const int count = lanes_left(kLanes, j, lines);
        __builtin_prefetch(in_row + j + ahead * plan.scan_stride[1]);
        __builtin_prefetch(out_row + j + ahead * plan.scan_stride[0], 1);
        const Sum sum = load_vector<Sum>(sums + j) +
            Format::template widen<Bytes>(load_partial<Stored>(in_row + j, count));
        const Mask flag = convert_flags<MaskBits>(
            load_partial<Vec<int8_t, kLanes>>(flag_row + j, count));
        store_vector(sums + j, (Sum)((Mask)sum & ~flag));
        store_partial(out_row + j, Format::template narrow<Bytes>((Sum)((Mask)sum & flag)), count);
      }
    }
  }
};

}  // namespace cornernet_d2
