// Scans along contiguous memory: rows of NCHW maps. The lanes of a vector combine by shuffles.
#pragma once

#include "common.h"

#include <memory>

namespace cornernet_d2 {

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
      __builtin_prefetch(x + done + ahead);
      __builtin_prefetch(y + done + ahead, 1);
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
      __builtin_prefetch(x + done + ahead);
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
      __builtin_prefetch(grad_y + done + ahead);
      __builtin_prefetch(grad_x + done + ahead, 1);
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
