// A corner's two pools and their sum in one pass: reads two maps, writes one.
// Operand order: (y, vertical, horizontal).
#pragma once

#include "lines.h"
#include "rows.h"

#include <vector>

namespace cornernet_d2 {

template <class Bits>
struct SumArgs {
  int64_t images, channels, rows, columns;
  int64_t stride[3][kDims];  // of each operand over (N, C, H, W)
  bool reverse;
  int64_t block;  // channels a task, channels-last kernel only
  Bits* y;
  const Bits* vertical;
  const Bits* horizontal;

  int64_t offset(int operand, int64_t n, int64_t c, int64_t h, int64_t w) const {
    const int64_t* s = stride[operand];
    return n * s[0] + c * s[1] + h * s[2] + w * s[3];
  }
};

// W contiguous: a task is one (H, W) plane.
template <class Format>
struct SumPlanes {
  using Bits = typename Format::Bits;

  template <int Bytes>
  CORNERNET_INLINE static void run(const SumArgs<Bits>& args, int64_t begin, int64_t end) {
    constexpr int64_t kLanes = VectorOf<Bits, Bytes>::kLanes;
    std::vector<Bits> maximum((args.columns + kLanes - 1) / kLanes * kLanes);
    const int64_t ahead = rows_ahead(args.columns * sizeof(Bits)) * (args.reverse ? -1 : 1);
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t n = plane / args.channels, c = plane % args.channels;
      std::fill(maximum.begin(), maximum.end(), kLowest<Bits>);
      for (int64_t i = 0; i < args.rows; ++i) {
        const int64_t h = args.reverse ? args.rows - 1 - i : i;
        Bits* y = args.y + args.offset(0, n, c, h, 0);
        const Bits* v = args.vertical + args.offset(1, n, c, h, 0);
        const Bits* x = args.horizontal + args.offset(2, n, c, h, 0);
        args.reverse ? sum_row<Bytes, true>(args, y, v, x, maximum.data(), ahead)
                     : sum_row<Bytes, false>(args, y, v, x, maximum.data(), ahead);
      }
    }
  }

  // `maximum` is aligned to the scan like the vectors: from the row's start, or from its end.
  template <int Bytes, bool Reverse>
  CORNERNET_INLINE static void sum_row(
      const SumArgs<Bits>& args, Bits* y, const Bits* v, const Bits* x, Bits* maximum,
      int64_t ahead) {
    using V = Vec<Bits, Bytes>;
    constexpr int kLanes = VectorOf<Bits, Bytes>::kLanes;
    V carry = V{} + kLowest<Bits>;
    for (int64_t done = 0; done < args.columns; done += kLanes, maximum += kLanes) {
      const int count = lanes_left(kLanes, done, args.columns);
      const int64_t start = Reverse ? args.columns - done - count : done;
      __builtin_prefetch(v + start + ahead * args.stride[1][2]);
      __builtin_prefetch(x + start + ahead * args.stride[2][2]);
      __builtin_prefetch(y + start + ahead * args.stride[0][2], 1);
      const V down = max_vector(load_vector<V>(maximum),
                                to_key<Format>(load_partial<V, Reverse>(v + start, count)));
      store_vector(maximum, down);
      const V key = to_key<Format>(load_partial<V, Reverse>(x + start, count));
      const V across = scan_lanes<Bytes, Reverse, Bits>(key, carry);
      store_partial<Reverse>(
          y + start,
          Format::template add<Bytes>(from_key<Format>(down), from_key<Format>(across)), count);
    }
  }
};

// C contiguous (channels_last): a task is one image and `block` channels.
template <class Format>
struct SumChannels {
  using Bits = typename Format::Bits;

  template <int Bytes>
  CORNERNET_INLINE static void run(const SumArgs<Bits>& args, int64_t begin, int64_t end) {
    const int64_t blocks = (args.channels + args.block - 1) / args.block;
    std::vector<Bits> maximum((args.columns + 1) * args.block);  // vertical, then horizontal
    Bits* across = maximum.data() + args.columns * args.block;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / blocks, c = task % blocks * args.block;
      const int64_t channels = std::min(args.block, args.channels - c);
      std::fill(maximum.begin(), maximum.end(), kLowest<Bits>);
      for (int64_t i = 0; i < args.rows; ++i) {
        const int64_t h = args.reverse ? args.rows - 1 - i : i;
        std::fill_n(across, args.block, kLowest<Bits>);
        for (int64_t j = 0; j < args.columns; ++j) {
          const int64_t w = args.reverse ? args.columns - 1 - j : j;
          sum_cell<Bytes>(args.y + args.offset(0, n, c, h, w),
                          args.vertical + args.offset(1, n, c, h, w),
                          args.horizontal + args.offset(2, n, c, h, w),
                          maximum.data() + j * args.block, across, channels, args.reverse);
        }
      }
    }
  }

  // In a reverse scan the channels go downwards too: the hardware's prefetchers follow memory that is
  // walked one way throughout. Twice as fast as upwards, which explicit prefetches do not mend.
  template <int Bytes>
  CORNERNET_INLINE static void sum_cell(
      Bits* y, const Bits* v, const Bits* x, Bits* down, Bits* across, int64_t channels,
      bool reverse) {
    using V = Vec<Bits, Bytes>;
    constexpr int kLanes = VectorOf<Bits, Bytes>::kLanes;
    const int count = lanes_left(kLanes, 0, channels);
    for (int64_t done = 0; done < channels; done += kLanes) {
      // The last vector overlaps the one before: maxima do not change when taken twice.
      const int64_t left = std::max<int64_t>(channels - kLanes - done, 0);
      const int64_t c = reverse ? left : channels - count - left;
      const V below = max_vector(load_vector<V>(down + c),
                                 to_key<Format>(load_partial<V>(v + c, count)));
      const V beside = max_vector(load_vector<V>(across + c),
                                  to_key<Format>(load_partial<V>(x + c, count)));
      store_vector(down + c, below);
      store_vector(across + c, beside);
      store_partial(
          y + c, Format::template add<Bytes>(from_key<Format>(below), from_key<Format>(beside)),
          count);
    }
  }
};

// Both backward kernels plane by plane, so that the plane's gradient is read from memory once.
template <class Format>
struct SumPlanesBackward {
  using Bits = typename Format::Bits;
  struct Args {
    PoolArgs<Bits> vertical, horizontal;
    int64_t line_tasks, rows;  // of one plane
  };

  template <int Bytes>
  CORNERNET_INLINE static void run(const Args& args, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      LinesBackward<Format>::template run<Bytes>(
          args.vertical, p * args.line_tasks, (p + 1) * args.line_tasks);
      RowsBackward<Format>::template run<Bytes>(
          args.horizontal, p * args.rows, (p + 1) * args.rows);
    }
  }
};

}  // namespace cornernet_d2
