// What the CUDA kernels share: number formats, packs of neighbours in memory, the arguments.
#pragma once

#include "../plan.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#define CORNERNET_DEVICE __device__ __forceinline__

namespace cornernet_d2 {
namespace gpu {

using Float64 = double;
using Float32 = float;
using Float16 = __half;
using BFloat16 = __nv_bfloat16;

// Gradients are summed, and what decides ties is compared, in this type.
template <class T>
using Accumulator = std::conditional_t<sizeof(T) == 8, double, float>;

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kVectorBytes = 16;
// Neighbours that a vector access moves. Doubles, which only tests use, go one at a time.
template <class T>
constexpr int kVectorLength = sizeof(T) == 8 ? 1 : kVectorBytes / sizeof(T);

// The IEEE 754-2019 maximum: NaN propagates and -0 < +0.
CORNERNET_DEVICE double maximum(double a, double b) {
  return isnan(a) || isnan(b) ? a + b : fmax(a, b);
}
CORNERNET_DEVICE float maximum(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return isnan(a) || isnan(b) ? a + b : fmaxf(a, b);
#endif
}
CORNERNET_DEVICE __half2 maximum(__half2 a, __half2 b) { return __hmax2_nan(a, b); }
CORNERNET_DEVICE __nv_bfloat162 maximum(__nv_bfloat162 a, __nv_bfloat162 b) {
  return __hmax2_nan(a, b);
}

CORNERNET_DEVICE float half_of(__half2 word, bool high) {
  return high ? __high2float(word) : __low2float(word);
}
CORNERNET_DEVICE float half_of(__nv_bfloat162 word, bool high) {
  uint32_t bits;
  memcpy(&bits, &word, sizeof(bits));
  return __uint_as_float(high ? bits & 0xffff0000u : bits << 16);
}

// N neighbours in memory. Halves are kept two in a word; a single one in the lower half.
template <class T, int N>
struct Pack {
  static constexpr bool kHalves = sizeof(T) == 2;
  static constexpr int kWords = kHalves ? (N + 1) / 2 : N;
  using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
  using Word = std::conditional_t<kHalves, Pair, T>;
  alignas(kWords * sizeof(Word)) Word word[kWords];
};

// A pack's elements as words of their own.
template <class T, int N>
using Wide = Pack<Accumulator<T>, N>;

template <class T, int N>
CORNERNET_DEVICE Wide<T, N> widen(const Pack<T, N>& pack) {
  Wide<T, N> wide;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if constexpr (pack.kHalves) {
      wide.word[n] = half_of(pack.word[n / 2], n % 2);
    } else {
      wide.word[n] = pack.word[n];
    }
  }
  return wide;
}

template <class T, int N>
CORNERNET_DEVICE Pack<T, N> narrow(const Wide<T, N>& wide) {
  Pack<T, N> pack;
#pragma unroll
  for (int k = 0; k < pack.kWords; ++k) {
    if constexpr (!pack.kHalves) {
      pack.word[k] = wide.word[k];
    } else if constexpr (std::is_same_v<T, __half>) {
      pack.word[k] = __floats2half2_rn(wide.word[2 * k], wide.word[(2 * k + 1) % N]);
    } else {
      pack.word[k] = __floats2bfloat162_rn(wide.word[2 * k], wide.word[(2 * k + 1) % N]);
    }
  }
  return pack;
}

template <class T, int N>
CORNERNET_DEVICE Pack<T, N> filled(Accumulator<T> value) {
  Wide<T, N> wide;
#pragma unroll
  for (int n = 0; n < N; ++n) wide.word[n] = value;
  return narrow<T, N>(wide);
}

template <class T, int N>
CORNERNET_DEVICE Pack<T, N> maximum(Pack<T, N> a, const Pack<T, N>& b) {
#pragma unroll
  for (int k = 0; k < a.kWords; ++k) a.word[k] = maximum(a.word[k], b.word[k]);
  return a;
}

template <class T, int N>
CORNERNET_DEVICE Accumulator<T> largest(const Pack<T, N>& pack) {
  auto word = pack.word[0];
#pragma unroll
  for (int k = 1; k < pack.kWords; ++k) word = maximum(word, pack.word[k]);
  if constexpr (pack.kHalves) {
    return maximum(half_of(word, false), half_of(word, N > 1));
  } else {
    return word;
  }
}

// One rounding: the sum of two halves is exact before it.
template <class T, int N>
CORNERNET_DEVICE Pack<T, N> plus(Pack<T, N> a, const Pack<T, N>& b) {
#pragma unroll
  for (int k = 0; k < a.kWords; ++k) {
    if constexpr (a.kHalves) {
      a.word[k] = __hadd2(a.word[k], b.word[k]);
    } else {
      a.word[k] += b.word[k];
    }
  }
  return a;
}

// One memory instruction a pack: left to itself the compiler moves it word by word.
template <int N, class T>
CORNERNET_DEVICE Pack<T, N> load(const T* source) {
  const auto access = *reinterpret_cast<const std::conditional_t<N == 1, T, uint4>*>(source);
  Pack<T, N> pack = {};
  memcpy(&pack, &access, sizeof(access));
  return pack;
}

template <class T, int N>
CORNERNET_DEVICE void store(T* target, const Pack<T, N>& pack) {
  std::conditional_t<N == 1, T, uint4> access;
  memcpy(&access, &pack, sizeof(access));
#if defined(__CUDA_ARCH__)
  if constexpr (N != 1) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(target), "r"(access.x),
                 "r"(access.y), "r"(access.z), "r"(access.w));
    return;
  }
#endif
  *reinterpret_cast<std::conditional_t<N == 1, T, uint4>*>(target) = access;
}

// Count packs at equal distances, in scan order.
template <class T>
struct Path {
  T* at;
  int64_t step;
};

// The first `count` packs of a path, `other` beyond. Full tiles are read without predicates.
template <class T, int N, int Count>
CORNERNET_DEVICE void load(
    Pack<T, N> (&pack)[Count], Path<const T> from, int count, Accumulator<T> other) {
  if (count >= Count) {
#pragma unroll
    for (int r = 0; r < Count; ++r, from.at += from.step) pack[r] = load<N>(from.at);
  } else {
#pragma unroll
    for (int r = 0; r < Count; ++r, from.at += from.step) {
      pack[r] = filled<T, N>(other);
      if (r < count) pack[r] = load<N>(from.at);
    }
  }
}

template <class T, int N, int Count>
CORNERNET_DEVICE void store(Path<T> to, int count, const Pack<T, N> (&pack)[Count]) {
#pragma unroll
  for (int r = 0; r < Count; ++r, to.at += to.step) {
    if (r < count) store(to.at, pack[r]);
  }
}

// Makes the compiler widen the pack again rather than hold what it widened before, which takes twice
// the registers.
template <class T, int N>
CORNERNET_DEVICE void forget_widened(Pack<T, N>& pack) {
#pragma unroll
  for (int k = 0; k < pack.kWords && pack.kHalves; ++k) {
    asm volatile("" : "+r"(reinterpret_cast<uint32_t&>(pack.word[k])));
  }
}

// Whether `value` exceeds everything before it in the scan. Zeros are equal; the first NaN exceeds
// all and nothing exceeds it.
template <class A>
CORNERNET_DEVICE bool exceeds(A value, A before) {
  return !(value <= before) && before == before;
}

// One bit for each of Count elements. Indices are constants once loops are unrolled.
template <int Count>
struct Bits {
  uint32_t word[(Count + 31) / 32] = {};

  CORNERNET_DEVICE void set(int i, bool value) {
    if (value) word[i / 32] |= 1u << (i % 32);
  }
  CORNERNET_DEVICE bool operator[](int i) const { return any(i, 1); }
  // Whether one of the `count` bits from `i` on is set; they do not straddle words.
  CORNERNET_DEVICE bool any(int i, int count) const {
    return (word[i / 32] & ((1u << count) - 1) << (i % 32)) != 0;
  }
};

// Operands in the plan's order. The number of lines or rows and their length fit in 31 bits.
template <class T>
struct Args {
  Plan plan;
  bool reverse;
  int width;        // of launch_rows: lanes of a warp that share a row
  T* out;           // y or grad_x
  const T* in;      // x or grad_y
  const T* second;  // backward: x
};

// Adds the element offsets of an outer slice, in the dimensions up to Last, in every operand.
// Returns whether there is such a slice. A dense map has one outer dimension, since the plan merges
// them, and then the chain of divisions ends early.
template <int Last, int Operands>
CORNERNET_DEVICE bool locate(
    const Plan& plan, uint32_t slice, int64_t (&offset)[Operands]) {
#pragma unroll
  for (int d = Last; d >= 0; --d) {
    if (slice == 0) return true;
    const uint32_t size = static_cast<uint32_t>(plan.outer[d]), rest = slice / size;
#pragma unroll
    for (int i = 0; i < Operands; ++i) {
      offset[i] += static_cast<int64_t>(slice - rest * size) * plan.outer_stride[d][i];
    }
    slice = rest;
  }
  return slice == 0;
}

}  // namespace gpu
}  // namespace cornernet_d2
