// Stands in for the toolkit's header on the host: the half-precision functions the kernels use.
#pragma once

#include <cmath>

typedef _Float16 __half;
struct __half2 {
  __half x, y;
};

inline float __low2float(__half2 word) { return static_cast<float>(word.x); }
inline float __high2float(__half2 word) { return static_cast<float>(word.y); }
inline __half2 __floats2half2_rn(float x, float y) {
  return {static_cast<__half>(x), static_cast<__half>(y)};
}
inline __half2 __hadd2(__half2 a, __half2 b) {
  return __floats2half2_rn(float(a.x) + float(b.x), float(a.y) + float(b.y));
}
inline __half2 __hmax2_nan(__half2 a, __half2 b) {  // NaN compares false: b where b is NaN
  return {std::isnan(float(a.x)) || a.x > b.x ? a.x : b.x,
          std::isnan(float(a.y)) || a.y > b.y ? a.y : b.y};
}
