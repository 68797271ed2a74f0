// Stands in for the toolkit's header on the host: the bfloat16 functions the kernels use.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline float bfloat16_value(__nv_bfloat16 half) { return __uint_as_float(half.bits << 16); }
inline __nv_bfloat16 round_to_bfloat16(float value) {  // to nearest even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {round_to_bfloat16(x), round_to_bfloat16(y)};
}
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return __floats2bfloat162_rn(bfloat16_value(a.x) + bfloat16_value(b.x),
                               bfloat16_value(a.y) + bfloat16_value(b.y));
}
inline __nv_bfloat16 bfloat16_maximum(__nv_bfloat16 a, __nv_bfloat16 b) {
  const float left = bfloat16_value(a), right = bfloat16_value(b);
  return std::isnan(left) || left > right ? a : b;  // NaN compares false: b where b is NaN
}
inline __nv_bfloat162 __hmax2_nan(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {bfloat16_maximum(a.x, b.x), bfloat16_maximum(a.y, b.y)};
}
