// What the CUDA kernels share: number formats, packs of neighbours in memory, the arguments.
#pragma once

#include "../plan.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

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

// The IEEE 754-2019 maximum: NaN propagates and -0 < +0. Halves come alone or as two in a word.
__device__ __forceinline__ double maximum(double a, double b) {
  return isnan(a) || isnan(b) ? a + b : fmax(a, b);
}
__device__ __forceinline__ float maximum(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return isnan(a) || isnan(b) ? a + b : fmaxf(a, b);
#endif
}
__device__ __forceinline__ __half maximum(__half a, __half b) { return __hmax_nan(a, b); }
__device__ __forceinline__ __half2 maximum(__half2 a, __half2 b) { return __hmax2_nan(a, b); }
__device__ __forceinline__ BFloat16 maximum(BFloat16 a, BFloat16 b) { return __hmax_nan(a, b); }
__device__ __forceinline__ __nv_bfloat162 maximum(__nv_bfloat162 a, __nv_bfloat162 b) {
  return __hmax2_nan(a, b);
}

// One rounding: the sum of two halves is exact before it.
template <class T>
__device__ __forceinline__ T plus(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return a + b;
  } else if constexpr (sizeof(T) == 2) {
    return __hadd(a, b);
  } else {
    return __hadd2(a, b);
  }
}

// N neighbours in memory, moved as one access; halves are kept two in a word.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
  using Word = std::conditional_t<sizeof(T) == 2 && N != 1, Pair, T>;
  static constexpr int kInWord = sizeof(Word) / sizeof(T), kWords = N / kInWord;
  Word word[kWords];
};

// A pack's elements as words of their own.
template <class T, int N>
using Wide = Pack<Accumulator<T>, N>;

__device__ __forceinline__ void widen(float* value, __half word) { *value = __half2float(word); }
__device__ __forceinline__ void widen(float* value, __half2 word) {
  value[0] = __low2float(word);
  value[1] = __high2float(word);
}
__device__ __forceinline__ void widen(float* value, BFloat16 word) {
  *value = __bfloat162float(word);
}
__device__ __forceinline__ void widen(float* value, __nv_bfloat162 word) {
  uint32_t bits[2];
  memcpy(bits, &word, 4);
  bits[1] = bits[0] & 0xffff0000u;
  bits[0] <<= 16;
  memcpy(value, bits, 8);
}
template <class T>
__device__ __forceinline__ void widen(T* value, T word) {
  *value = word;
}

// Halves round to nearest even.
__device__ __forceinline__ void narrow(__half& word, const float* value) {
  word = __float2half_rn(*value);
}
__device__ __forceinline__ void narrow(__half2& word, const float* value) {
  word = __floats2half2_rn(value[0], value[1]);
}
__device__ __forceinline__ void narrow(BFloat16& word, const float* value) {
  word = __float2bfloat16_rn(*value);
}
__device__ __forceinline__ void narrow(__nv_bfloat162& word, const float* value) {
  word = __floats2bfloat162_rn(value[0], value[1]);
}
template <class T>
__device__ __forceinline__ void narrow(T& word, const T* value) {
  word = *value;
}

template <class T, int N>
__device__ __forceinline__ Wide<T, N> widen(const Pack<T, N>& pack) {
  Wide<T, N> wide;
#pragma unroll
  for (int k = 0; k < pack.kWords; ++k) widen(wide.word + k * pack.kInWord, pack.word[k]);
  return wide;
}

template <class T, int N>
__device__ __forceinline__ Pack<T, N> narrow(const Wide<T, N>& wide) {
  Pack<T, N> pack;
#pragma unroll
  for (int k = 0; k < pack.kWords; ++k) narrow(pack.word[k], wide.word + k * pack.kInWord);
  return pack;
}

template <class T, int N>
__device__ __forceinline__ Pack<T, N> filled(Accumulator<T> value) {
  Wide<T, N> wide;
#pragma unroll
  for (int n = 0; n < N; ++n) wide.word[n] = value;
  return narrow<T, N>(wide);
}

template <class T, int N>
__device__ __forceinline__ Pack<T, N> maximum(Pack<T, N> a, const Pack<T, N>& b) {
#pragma unroll
  for (int k = 0; k < a.kWords; ++k) a.word[k] = maximum(a.word[k], b.word[k]);
  return a;
}

template <class T, int N>
__device__ __forceinline__ Accumulator<T> largest(const Pack<T, N>& pack) {
  Pack<T, pack.kInWord> word{{pack.word[0]}};
#pragma unroll
  for (int k = 1; k < pack.kWords; ++k) word.word[0] = maximum(word.word[0], pack.word[k]);
  const auto wide = widen(word);
  return maximum(wide.word[0], wide.word[pack.kInWord - 1]);
}

template <class T, int N>
__device__ __forceinline__ Pack<T, N> plus(Pack<T, N> a, const Pack<T, N>& b) {
#pragma unroll
  for (int k = 0; k < a.kWords; ++k) a.word[k] = plus(a.word[k], b.word[k]);
  return a;
}

// The type of one memory instruction. Left to itself the compiler moves a pack word by word.
template <int Bytes>
using Access = std::conditional_t<
    Bytes == 16, uint4,
    std::conditional_t<Bytes == 8, uint2, std::conditional_t<Bytes == 4, uint32_t, uint16_t>>>;

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* source) {
  const auto access = *reinterpret_cast<const Access<sizeof(T) * N>*>(source);
  Pack<T, N> pack;
  memcpy(&pack, &access, sizeof(pack));
  return pack;
}

template <class T, int N>
__device__ __forceinline__ void store(T* target, const Pack<T, N>& pack) {
  Access<sizeof(T) * N> access;
  memcpy(&access, &pack, sizeof(pack));
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(pack) == 16) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(target), "r"(access.x),
                 "r"(access.y), "r"(access.z), "r"(access.w));
    return;
  }
#endif
  *reinterpret_cast<Access<sizeof(T) * N>*>(target) = access;
}

// Count packs at equal distances, in scan order.
template <class T>
struct Path {
  T* at;
  int64_t step;
};

// The first `count` packs of a path, `other` beyond. Full tiles take the path without predicates.
template <class T, int N, int Count>
__device__ __forceinline__ void load(
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
__device__ __forceinline__ void store(Path<T> to, int count, const Pack<T, N> (&pack)[Count]) {
  if (count >= Count) {
#pragma unroll
    for (int r = 0; r < Count; ++r, to.at += to.step) store(to.at, pack[r]);
  } else {
#pragma unroll
    for (int r = 0; r < Count; ++r, to.at += to.step) {
      if (r < count) store(to.at, pack[r]);
    }
  }
}

// Whether `value` exceeds everything before it in the scan. Zeros are equal; the first NaN exceeds
// all and nothing exceeds it.
template <class A>
__device__ __forceinline__ bool exceeds(A value, A before) {
  return !(value <= before) && before == before;
}

// One bit for each of Count elements. Indices are constants once loops are unrolled.
template <int Count>
struct Bits {
  uint32_t word[(Count + 31) / 32] = {};

  __device__ __forceinline__ void set(int i, bool value) {
    if (value) word[i / 32] |= 1u << (i % 32);
  }
  __device__ __forceinline__ bool operator[](int i) const { return any(i, 1); }
  // Whether one of the `count` bits from `i` on is set; they do not straddle words.
  __device__ __forceinline__ bool any(int i, int count) const {
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
__device__ __forceinline__ bool locate(
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
