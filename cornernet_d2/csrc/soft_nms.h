// Soft-NMS: what the CPU kernel, the CUDA kernel and its host emulation share.
// Every expression rounds as the same one in PyTorch's operators (no contraction: see setup.py).
#pragma once

#include "macros.h"

#include <cfloat>
#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define CORNERNET_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CORNERNET_HOST_DEVICE CORNERNET_INLINE
#endif

namespace cornernet_d2 {

enum class Decay : int64_t { kGaussian, kLinear, kHard };  // as in layers/soft_nms.py

struct SoftNmsArgs {
  const float* boxes;     // (M, 4)
  const float* scores;    // (M,)
  const int64_t* groups;  // (M,) ascending
  const int64_t* order;   // (M,) the box that stands at each place of `groups`
  const float* corners;   // (M, 2), or null: do not merge
  int64_t count;          // M
  Decay decay;
  float sigma, iou_threshold, min_score, exponent;
  int64_t max_picks;    // of a group
  float* new_scores;    // (M,) 0 for boxes that do not stay
  float* merged;        // (M, 4)
};

// A corner without a score still has to divide the mean that it alone makes.
constexpr float kLeastCorner = 1e-12f;

struct Box {
  float x0, y0, x1, y1;
  CORNERNET_HOST_DEVICE float area() const { return (x1 - x0) * (y1 - y0); }
};

CORNERNET_HOST_DEVICE float intersection(const Box& a, const Box& b) {
  const float width = (a.x1 < b.x1 ? a.x1 : b.x1) - (a.x0 > b.x0 ? a.x0 : b.x0);
  const float height = (a.y1 < b.y1 ? a.y1 : b.y1) - (a.y0 > b.y0 ? a.y0 : b.y0);
  return (width > 0 ? width : 0.0f) * (height > 0 ? height : 0.0f);
}

// What a taken box leaves of the score of one that it meets.
CORNERNET_HOST_DEVICE float weight_of(const SoftNmsArgs& args, float inner, float area, float other) {
  const float outer = area + other - inner;
  const float iou = inner / (outer > FLT_MIN ? outer : FLT_MIN);
  if (args.decay == Decay::kGaussian) return expf(iou * iou / -args.sigma);
  if (!(iou > args.iou_threshold)) return 1.0f;
  return args.decay == Decay::kLinear ? 1.0f - iou : 0.0f;
}

// Weighted sums of a taken box and of those that it meets; their quotients are the merged box.
struct Mean {
  float x0, y0, x1, y1, first, second;

  CORNERNET_HOST_DEVICE void add(const Box& box, const float* corners, float share) {
    const float a = share * (corners[0] > kLeastCorner ? corners[0] : kLeastCorner);
    const float b = share * (corners[1] > kLeastCorner ? corners[1] : kLeastCorner);
    x0 += box.x0 * a;
    y0 += box.y0 * a;
    x1 += box.x1 * b;
    y1 += box.y1 * b;
    first += a;
    second += b;
  }
  CORNERNET_HOST_DEVICE void store(float* box) const {
    box[0] = x0 / first;
    box[1] = y0 / first;
    box[2] = x1 / second;
    box[3] = y1 / second;
  }
};

}  // namespace cornernet_d2
