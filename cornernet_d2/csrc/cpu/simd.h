// Portable vectors (GCC/Clang extension) and the ordered-integer view of floating-point values.
#pragma once

#include "../keys.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

namespace cornernet_d2 {

// A vector of `Bytes` bytes of T; the kernels are instantiated for 16, 32 and 64 bytes.
template <class T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
  static constexpr int kLanes = Bytes / sizeof(T);
};
template <class T, int Bytes>
using Vec = typename VectorOf<T, Bytes>::type;

// widen and narrow convert between stored bits and the type gradients are summed in, one
// accumulator vector of `Bytes` bytes at a time; add gives the stored bits of the sum of stored
// values, rounded once.
template <class Bits_, class Accumulator_, Bits_ Infinity, Bits_ QuietNaN>
struct WideFormat {
  using Bits = Bits_;
  using Accumulator = Accumulator_;
  static constexpr Bits kInfinity = Infinity;
  static constexpr Bits kQuietNaN = QuietNaN;
  template <int Bytes>
  CORNERNET_INLINE static Vec<Accumulator, Bytes> widen(Vec<Bits, Bytes> bits) {
    return (Vec<Accumulator, Bytes>)bits;
  }
  template <int Bytes>
  CORNERNET_INLINE static Vec<Bits, Bytes> narrow(Vec<Accumulator, Bytes> value) {
    return (Vec<Bits, Bytes>)value;
  }
  template <int Bytes>
  CORNERNET_INLINE static Vec<Bits, Bytes> add(Vec<Bits, Bytes> a, Vec<Bits, Bytes> b) {
    return narrow<Bytes>(widen<Bytes>(a) + widen<Bytes>(b));
  }
};
using Float64 = WideFormat<int64_t, double, 0x7ff0000000000000, 0x7ff8000000000000>;
using Float32 = WideFormat<int32_t, float, 0x7f800000, 0x7fc00000>;

struct BFloat16 {
  using Bits = int16_t;
  using Accumulator = float;
  static constexpr Bits kInfinity = 0x7f80;
  static constexpr Bits kQuietNaN = 0x7fc0;
  template <int Bytes>
  CORNERNET_INLINE static Vec<float, Bytes> widen(Vec<Bits, Bytes / 2> bits) {
    return (Vec<float, Bytes>)(__builtin_convertvector(bits, Vec<int32_t, Bytes>) << 16);
  }
  template <int Bytes>
  CORNERNET_INLINE static Vec<Bits, Bytes / 2> narrow(Vec<float, Bytes> value) {
    return __builtin_convertvector(round<Bytes>(value) >> 16, Vec<Bits, Bytes / 2>);
  }
  template <int Bytes>  // to nearest even, as torch does; the upper halves are the result
  CORNERNET_INLINE static Vec<uint32_t, Bytes> round(Vec<float, Bytes> value) {
    using Unsigned = Vec<uint32_t, Bytes>;
    const Unsigned bits = (Unsigned)value;
    const Unsigned nan = Unsigned{} + (uint32_t(kQuietNaN) << 16);
    return value != value ? nan : bits + 0x7fff + ((bits >> 16) & 1);
  }
  template <int Bytes>  // even and odd lanes apart, which no lane has to move for
  CORNERNET_INLINE static Vec<Bits, Bytes> add(Vec<Bits, Bytes> a, Vec<Bits, Bytes> b) {
    using Unsigned = Vec<uint32_t, Bytes>;
    using Float = Vec<float, Bytes>;
    constexpr uint32_t kOdd = 0xffff0000;
    const Unsigned x = (Unsigned)a, y = (Unsigned)b;
    const Unsigned even = round<Bytes>((Float)(x << 16) + (Float)(y << 16));
    const Unsigned odd = round<Bytes>((Float)(x & kOdd) + (Float)(y & kOdd));
    return (Vec<Bits, Bytes>)(even >> 16 | (odd & kOdd));
  }
};

// Whether the instruction set of vectors of this many bytes converts halves (see cpu/dispatch.h).
#if defined(__x86_64__)
template <int Bytes>
constexpr bool kConvertsHalf = Bytes >= 32;
#define CORNERNET_HALF_TO_FLOAT(HALF, FLOAT) asm("vcvtph2ps %1, %0" : "=v"(FLOAT) : "v"(HALF))
#define CORNERNET_FLOAT_TO_HALF(FLOAT, HALF) asm("vcvtps2ph $0, %1, %0" : "=v"(HALF) : "v"(FLOAT))
#else
template <int Bytes>
constexpr bool kConvertsHalf = false;
#define CORNERNET_HALF_TO_FLOAT(HALF, FLOAT)
#define CORNERNET_FLOAT_TO_HALF(FLOAT, HALF)
#endif

struct Float16 {
  using Bits = int16_t;
  using Accumulator = float;
  static constexpr Bits kInfinity = 0x7c00;
  static constexpr Bits kQuietNaN = 0x7e00;
  template <int Bytes>
  CORNERNET_INLINE static Vec<float, Bytes> widen(Vec<Bits, Bytes / 2> bits) {
    if constexpr (kConvertsHalf<Bytes>) {
      Vec<float, Bytes> value;
      CORNERNET_HALF_TO_FLOAT(bits, value);
      return value;
    }
    // Moves exponent and fraction into place and rescales by 2^(127 - 15); infinities and NaN then
    // need the all-ones exponent back.
    using Signed = Vec<int32_t, Bytes>;
    const Signed wide = __builtin_convertvector(bits, Signed);
    const Signed magnitude = (wide & 0x7fff) << 13;
    const Vec<float, Bytes> scaled = (Vec<float, Bytes>)magnitude * 0x1p112f;
    const Signed special = (wide & 0x7c00) == 0x7c00 ? Signed{} + 0x7f800000 : Signed{};
    return (Vec<float, Bytes>)((Signed)scaled | special | ((wide & 0x8000) << 16));
  }
  template <int Bytes>  // rounds to nearest even; too large becomes infinite
  CORNERNET_INLINE static Vec<Bits, Bytes / 2> narrow(Vec<float, Bytes> value) {
    if constexpr (kConvertsHalf<Bytes>) {
      Vec<Bits, Bytes / 2> half;
      CORNERNET_FLOAT_TO_HALF(value, half);
      return half;
    }
    using Unsigned = Vec<uint32_t, Bytes>;
    const Unsigned bits = (Unsigned)value;
    const Unsigned magnitude = bits & 0x7fffffff;
    // Normal halves: rebias the exponent and round at bit 13. The carry may reach infinity.
    const Unsigned normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Subnormal halves: adding 1/2 (exponent of one unit = 2^-24) lets the adder do the rounding.
    const Unsigned subnormal =
        (Unsigned)((Vec<float, Bytes>)magnitude + 0.5f) - uint32_t(0x3f000000);
    Unsigned half = magnitude < 0x38800000 ? subnormal : normal;
    half = magnitude >= 0x47800000 ? Unsigned{} + uint32_t(kInfinity) : half;
    half = magnitude > 0x7f800000 ? Unsigned{} + uint32_t(kQuietNaN) : half;
    return __builtin_convertvector(half | ((bits >> 16) & 0x8000), Vec<Bits, Bytes / 2>);
  }
  template <int Bytes>
  CORNERNET_INLINE static Vec<Bits, Bytes> add(Vec<Bits, Bytes> a, Vec<Bits, Bytes> b) {
    return add_halves<Bytes>(a, b, std::make_index_sequence<VectorOf<Bits, Bytes / 2>::kLanes>{});
  }
  // The two halves of the lanes after each other, split and joined without a way through memory.
  template <int Bytes, std::size_t... I>
  CORNERNET_INLINE static Vec<Bits, Bytes> add_halves(
      Vec<Bits, Bytes> a, Vec<Bits, Bytes> b, std::index_sequence<I...>) {
    constexpr int n = sizeof...(I);
    const auto low = narrow<Bytes>(widen<Bytes>(__builtin_shufflevector(a, a, int(I)...)) +
                                   widen<Bytes>(__builtin_shufflevector(b, b, int(I)...)));
    const auto high = narrow<Bytes>(widen<Bytes>(__builtin_shufflevector(a, a, (n + int(I))...)) +
                                    widen<Bytes>(__builtin_shufflevector(b, b, (n + int(I))...)));
    return __builtin_shufflevector(low, high, int(I)..., (n + int(I))...);
  }
};

// The integer type whose vectors serve as lane masks (0 or -1) for vectors of T.
template <class T>
struct MaskOf;
template <>
struct MaskOf<float> {
  using type = int32_t;
};
template <>
struct MaskOf<double> {
  using type = int64_t;
};

// Flags (0 or -1) of any integer width as flags of another. One doubling or halving at a time: GCC
// turns wider jumps of __builtin_convertvector into scalar code.
template <class To, class V>
CORNERNET_INLINE auto convert_flags(V flags) {
  using From = std::remove_reference_t<decltype(flags[0])>;
  constexpr int kLanes = sizeof(V) / sizeof(From);
  if constexpr (sizeof(To) == sizeof(From)) {
    return flags;
  } else if constexpr (sizeof(To) > sizeof(From)) {
    using Next = std::conditional_t<
        sizeof(From) == 1, int16_t, std::conditional_t<sizeof(From) == 2, int32_t, int64_t>>;
    return convert_flags<To>(__builtin_convertvector(flags, Vec<Next, kLanes * sizeof(Next)>));
  } else {
    using Next = std::conditional_t<
        sizeof(From) == 8, int32_t, std::conditional_t<sizeof(From) == 4, int16_t, int8_t>>;
    return convert_flags<To>(__builtin_convertvector(flags, Vec<Next, kLanes * sizeof(Next)>));
  }
}

template <class V, class T>
CORNERNET_INLINE V load_vector(const T* source) {
  V value;
  std::memcpy(&value, source, sizeof(V));
  return value;
}

template <class V, class T>
CORNERNET_INLINE void store_vector(T* target, V value) {
  std::memcpy(target, &value, sizeof(V));
}

template <class V>
CORNERNET_INLINE V max_vector(V a, V b) {
  return a > b ? a : b;
}

// Lane shuffles. `Step` lanes "earlier" means towards the start of the scan: lower lanes, or higher
// lanes when Reverse.
template <int Step, bool Reverse, class V, std::size_t... I>
CORNERNET_INLINE V earlier_clamped(V v, std::index_sequence<I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(
      v, v, (Reverse ? (int(I) + Step < n ? int(I) + Step : n - 1)
                     : (int(I) >= Step ? int(I) - Step : 0))...);
}

// Lanes before the start of the scan come from `border`, whose lanes are all equal.
template <int Step, bool Reverse, class V, std::size_t... I>
CORNERNET_INLINE V earlier(V v, V border, std::index_sequence<I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(
      v, border, (Reverse ? (int(I) + Step < n ? int(I) + Step : n)
                          : (int(I) >= Step ? int(I) - Step : n))...);
}

// Every lane takes the value of the scan's last lane.
template <bool Reverse, class V, std::size_t... I>
CORNERNET_INLINE V broadcast_last(V v, std::index_sequence<I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(v, v, (int(I) * 0 + (Reverse ? 0 : n - 1))...);
}

}  // namespace cornernet_d2
