// Stands in for the toolkit's header on the host: the conversions that the kernels use.
#pragma once

#include <cstdint>
#include <cstring>

typedef _Float16 __half;

inline __half __short_as_half(int16_t bits) {
  __half value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline int16_t __half_as_short(__half value) {
  int16_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float __half2float(__half value) { return static_cast<float>(value); }
inline __half __float2half_rn(float value) { return static_cast<__half>(value); }
