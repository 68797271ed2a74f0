// What the CUDA kernels share: number formats, vector accesses, the kernels' arguments.
#pragma once

#include "../keys.h"
#include "../plan.h"

#include <cuda_fp16.h>

#include <cstdint>

namespace cornernet_d2 {
namespace gpu {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxSegments = 16;  // warps of a block of the column kernels
constexpr int kRowThreads = 256;  // threads of a block of the row kernels
constexpr int kVectorBytes = 16;

template <class Bits_, class Sum_, Bits_ Infinity, Bits_ QuietNaN>
struct Format {
  using Bits = Bits_;
  using Sum = Sum_;  // gradients are summed in this type
  static constexpr Bits kInfinity = Infinity;
  static constexpr Bits kQuietNaN = QuietNaN;
};

struct Float64 : Format<int64_t, double, 0x7ff0000000000000, 0x7ff8000000000000> {
  __device__ static double widen(int64_t bits) { return __longlong_as_double(bits); }
  __device__ static int64_t narrow(double value) { return __double_as_longlong(value); }
};
struct Float32 : Format<int32_t, float, 0x7f800000, 0x7fc00000> {
  __device__ static float widen(int32_t bits) { return __int_as_float(bits); }
  __device__ static int32_t narrow(float value) { return __float_as_int(value); }
};
struct Float16 : Format<int16_t, float, 0x7c00, 0x7e00> {
  __device__ static float widen(int16_t bits) { return __half2float(__short_as_half(bits)); }
  __device__ static int16_t narrow(float value) {
    return __half_as_short(__float2half_rn(value));
  }
};
struct BFloat16 : Format<int16_t, float, 0x7f80, 0x7fc0> {
  __device__ static float widen(int16_t bits) { return __int_as_float(int32_t(bits) << 16); }
  __device__ static int16_t narrow(float value) {  // round to nearest even
    const uint32_t bits = static_cast<uint32_t>(__float_as_int(value));
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return static_cast<int16_t>(value != value ? kQuietNaN : rounded);
  }
};

template <class Bits>
struct Args {
  Plan plan;
  bool reverse;
  Bits* out;        // y or grad_x
  const Bits* in;   // x or grad_y
  const Bits* key;  // backward: x
};

// A thread's neighbours in memory, moved as one access.
template <class Bits, int N>
struct alignas(sizeof(Bits) * N) Pack {
  Bits value[N];
};

template <int N, class Bits>
__device__ __forceinline__ Pack<Bits, N> load(const Bits* source) {
  return *reinterpret_cast<const Pack<Bits, N>*>(source);
}

template <int N, class Bits>
__device__ __forceinline__ void store(Bits* target, const Pack<Bits, N>& pack) {
  *reinterpret_cast<Pack<Bits, N>*>(target) = pack;
}

template <class Bits>
__device__ __forceinline__ Bits larger(Bits a, Bits b) {
  return a > b ? a : b;
}

// Positions of a line that a thread holds in registers at a time: as many as fit without spilling
// (the tests read ptxas's report). A tile of the column kernels is kMaxSegments times as long.
template <int N>
constexpr int kHeldForward = N == 8 ? 4 : 8;
template <int N>
constexpr int kHeldBackward = N == 8 ? 2 : 4;
// Warps that share a line in the backward pass: half as many leave each thread twice the registers.
template <int N>
constexpr int kBackwardSegments = N == 8 ? kMaxSegments / 2 : kMaxSegments;

}  // namespace gpu
}  // namespace cornernet_d2
