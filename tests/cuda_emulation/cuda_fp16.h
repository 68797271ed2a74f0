// Stands in for the toolkit's header on the host: the half-precision functions the kernels use.
#pragma once

#include <cmath>

typedef _Float16 __half;
struct __half2 {
  __half x, y;
};

inline float __half2float(__half value) { return static_cast<float>(value); }
inline float __low2float(__half2 word) { return static_cast<float>(word.x); }
inline float __high2float(__half2 word) { return static_cast<float>(word.y); }
inline __half __float2half_rn(float value) { return static_cast<__half>(value); }
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline __half __hadd(__half a, __half b) { return static_cast<__half>(float(a) + float(b)); }
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half __hmax_nan(__half a, __half b) {
  return std::isnan(float(a)) || a > b ? a : b;  // b where b is NaN, since NaN compares false
}
inline __half2 __hmax2_nan(__half2 a, __half2 b) {
  return {__hmax_nan(a.x, b.x), __hmax_nan(a.y, b.y)};
}
