// Corner-pool kernels for the CPU, written once for every instruction set.
//
// Each kernel is a struct with `template <int Bytes> static void run(args, begin, end)`, where Bytes
// is the vector width; cpu/dispatch.h compiles it for the machine's widest vectors. Everything that
// runs inside must be CORNERNET_INLINE to be compiled for the same instruction set.
// Operand order in the plans: forward (y, x), backward (grad_x, grad_y, x).
#pragma once

#include "../plan.h"
#include "simd.h"

#include <algorithm>
#include <memory>

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

// Hardware prefetchers follow memory upwards; half of all scans walk it downwards. Each vector asks
// for the one that lies this many bytes of rows further along the scan, or further rows ahead.
constexpr int64_t kPrefetchBytes = 2048;

inline int64_t rows_ahead(int64_t row_bytes) {
  return std::max<int64_t>(1, kPrefetchBytes / std::max<int64_t>(row_bytes, 1));
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
      const int64_t ahead = (args.reverse ? -1 : 1) * rows_ahead(lines * sizeof(Bits));
      for (int64_t i = 0; i < plan.scan; ++i) {
        const int64_t position = args.reverse ? plan.scan - 1 - i : i;
        scan_line_row<Format, Bytes>(y + position * plan.scan_stride[0],
                                     x + position * plan.scan_stride[1], maximum, lines,
                                     ahead * plan.scan_stride[0], ahead * plan.scan_stride[1]);
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

// Inclusive maximum scan of the lanes of one vector, after everything that gave `carry`.
template <int Bytes, bool Reverse, class Bits>
CORNERNET_INLINE Vec<Bits, Bytes> scan_lanes(Vec<Bits, Bytes> key, Vec<Bits, Bytes>& carry) {
  constexpr int kLanes = VectorOf<Bits, Bytes>::kLanes;
  constexpr std::make_index_sequence<kLanes> lanes{};
  key = max_vector(key, earlier_clamped<1, Reverse>(key, lanes));
  if constexpr (kLanes > 2) key = max_vector(key, earlier_clamped<2, Reverse>(key, lanes));
  if constexpr (kLanes > 4) key = max_vector(key, earlier_clamped<4, Reverse>(key, lanes));
  if constexpr (kLanes > 8) key = max_vector(key, earlier_clamped<8, Reverse>(key, lanes));
  if constexpr (kLanes > 16) key = max_vector(key, earlier_clamped<16, Reverse>(key, lanes));
  const Vec<Bits, Bytes> scanned = max_vector(key, carry);
  carry = max_vector(carry, broadcast_last<Reverse>(key, lanes));
  return scanned;
}

template <class Format>
struct RowsForward {
  using Bits = typename Format::Bits;

  template <int Bytes>
  CORNERNET_INLINE static void run(const PoolArgs<Bits>& args, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      Bits* y = args.out + args.plan.offset(row, 0);
      const Bits* x = args.in + args.plan.offset(row, 1);
      const int64_t ahead = rows_ahead(args.plan.scan * sizeof(Bits)) * args.plan.scan;
      args.reverse ? scan<Bytes, true>(y, x, args.plan.scan, ahead)
                   : scan<Bytes, false>(y, x, args.plan.scan, ahead);
    }
  }

  template <int Bytes, bool Reverse>
  CORNERNET_INLINE static void scan(Bits* y, const Bits* x, int64_t length, int64_t ahead) {
    using V = Vec<Bits, Bytes>;
    constexpr int kLanes = VectorOf<Bits, Bytes>::kLanes;
    V carry = V{} + kLowest<Bits>;
    for (int64_t done = 0; done < length; done += kLanes) {
      const int count = lanes_left(kLanes, done, length);
      const int64_t start = Reverse ? length - done - count : done;
      __builtin_prefetch(x + start + ahead);
      __builtin_prefetch(y + start + ahead, 1);
      const V key = to_key<Format>(load_partial<V, Reverse>(x + start, count));
      const V scanned = scan_lanes<Bytes, Reverse, Bits>(key, carry);
      store_partial<Reverse>(y + start, from_key<Format>(scanned), count);
    }
  }
};

template <class Format>
struct RowsBackward {
  using Bits = typename Format::Bits;
  using Accumulator = typename Format::Accumulator;

  template <int Bytes>
  CORNERNET_INLINE static void run(const PoolArgs<Bits>& args, int64_t begin, int64_t end) {
    const Plan& plan = args.plan;
    const std::unique_ptr<int8_t[]> flags(new int8_t[plan.scan]);
    const int64_t ahead = rows_ahead(plan.scan * sizeof(Bits)) * plan.scan;
    for (int64_t row = begin; row < end; ++row) {
      Bits* grad_x = args.out + plan.offset(row, 0);
      const Bits* grad_y = args.in + plan.offset(row, 1);
      const Bits* x = args.key + plan.offset(row, 2);
      if (args.reverse) {
        flag_maxima<Bytes, true>(x, plan.scan, ahead, flags.get());
        route<Bytes, true>(grad_x, grad_y, plan.scan, ahead, flags.get());
      } else {
        flag_maxima<Bytes, false>(x, plan.scan, ahead, flags.get());
        route<Bytes, false>(grad_x, grad_y, plan.scan, ahead, flags.get());
      }
    }
  }

  // flags[i] = -1 where position i exceeds everything before it in the scan, else 0.
  template <int Bytes, bool Reverse>
  CORNERNET_INLINE static void flag_maxima(
      const Bits* x, int64_t length, int64_t ahead, int8_t* flags) {
    using V = Vec<Bits, Bytes>;
    constexpr int kLanes = VectorOf<Bits, Bytes>::kLanes;
    constexpr std::make_index_sequence<kLanes> lanes{};
    V carry = V{} + kLowest<Bits>;
    for (int64_t done = 0; done < length; done += kLanes) {
      const int count = lanes_left(kLanes, done, length);
      const int64_t start = Reverse ? length - done - count : done;
      __builtin_prefetch(x + start + ahead);
      const V key = merge_zeros(to_key<Format>(load_partial<V, Reverse>(x + start, count)));
      const V border = carry;
      const V scanned = scan_lanes<Bytes, Reverse, Bits>(key, carry);
      const V before = earlier<1, Reverse>(scanned, border, lanes);
      store_partial<Reverse>(flags + start,
                             convert_flags<int8_t>(key > before), count);
    }
  }

  // A segmented sum against the scan: every flagged position collects the gradients from itself up
  // to the next flagged one. `closed` marks lanes whose sum must not reach further back.
  template <int Bytes, bool Reverse>
  CORNERNET_INLINE static void route(
      Bits* grad_x, const Bits* grad_y, int64_t length, int64_t ahead, const int8_t* flags) {
    using Sum = Vec<Accumulator, Bytes>;
    using MaskBits = typename MaskOf<Accumulator>::type;
    using Mask = Vec<MaskBits, Bytes>;
    constexpr int kLanes = VectorOf<Accumulator, Bytes>::kLanes;
    constexpr std::make_index_sequence<kLanes> lanes{};
    Sum carry{};
    for (int64_t done = 0; done < length; done += kLanes) {
      const int count = lanes_left(kLanes, done, length);
      const int64_t start = Reverse ? done : length - done - count;
      __builtin_prefetch(grad_y + start + ahead);
      __builtin_prefetch(grad_x + start + ahead, 1);
      const Mask flag = convert_flags<MaskBits>(
          load_partial<Vec<int8_t, kLanes>, !Reverse>(flags + start, count));
      Sum sum = Format::template widen<Bytes>(
          load_partial<Vec<Bits, kLanes * sizeof(Bits)>, !Reverse>(grad_y + start, count));
      Mask closed = earlier<1, !Reverse>(flag, Mask{}, lanes);
      add_segment<1, !Reverse>(sum, closed, lanes);
      if constexpr (kLanes > 2) add_segment<2, !Reverse>(sum, closed, lanes);
      if constexpr (kLanes > 4) add_segment<4, !Reverse>(sum, closed, lanes);
      if constexpr (kLanes > 8) add_segment<8, !Reverse>(sum, closed, lanes);
      sum += (Sum)((Mask)carry & ~closed);
      carry = broadcast_last<!Reverse>((Sum)((Mask)sum & ~flag), lanes);
      store_partial<!Reverse>(
          grad_x + start, Format::template narrow<Bytes>((Sum)((Mask)sum & flag)), count);
    }
  }

  template <int Step, bool Reverse, class Sum, class Mask, class Lanes>
  CORNERNET_INLINE static void add_segment(Sum& sum, Mask& closed, Lanes lanes) {
    sum += (Sum)((Mask)earlier<Step, Reverse>(sum, Sum{}, lanes) & ~closed);
    closed |= earlier<Step, Reverse>(closed, Mask{}, lanes);
  }
};

}  // namespace cornernet_d2
