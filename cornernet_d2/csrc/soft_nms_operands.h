// Argument checks and results of soft-NMS, shared by the CPU and CUDA entry points (stable ABI).
#pragma once

#include "soft_nms.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

namespace cornernet_d2 {

using torch::stable::Tensor;

inline void check_soft_nms(const Tensor& x, const Tensor& boxes, int64_t columns, bool integer) {
  using torch::headeronly::ScalarType;
  const bool shaped = x.dim() == (columns ? 2 : 1) && x.size(0) == boxes.size(0) &&
      (!columns || x.size(1) == columns);
  STD_TORCH_CHECK(
      shaped && x.is_contiguous() && x.get_device() == boxes.get_device() &&
          x.scalar_type() == (integer ? ScalarType::Long : ScalarType::Float),
      "soft_nms expects contiguous boxes (M, 4), scores (M,), groups (M,), order (M,) and corner "
      "scores (M, 2) on one device, float32 or (groups and order) int64");
}

// new_scores, merged, and everything as the kernels take it.
inline std::tuple<Tensor, Tensor, SoftNmsArgs> soft_nms_operands(
    const Tensor& boxes, const Tensor& scores, const Tensor& groups, const Tensor& order,
    const std::optional<Tensor>& corner_scores, int64_t decay, double sigma, double iou_threshold,
    double min_score, double exponent, int64_t max_picks) {
  check_soft_nms(boxes, boxes, 4, false);
  check_soft_nms(scores, boxes, 0, false);
  check_soft_nms(groups, boxes, 0, true);
  check_soft_nms(order, boxes, 0, true);
  if (corner_scores) check_soft_nms(*corner_scores, boxes, 2, false);
  STD_TORCH_CHECK(decay >= 0 && decay <= 2, "soft_nms: decay is 0, 1 or 2, got ", decay);
  Tensor new_scores = torch::stable::empty_like(scores);
  Tensor merged = torch::stable::empty_like(boxes);
  const SoftNmsArgs args{
      static_cast<const float*>(boxes.const_data_ptr()),
      static_cast<const float*>(scores.const_data_ptr()),
      static_cast<const int64_t*>(groups.const_data_ptr()),
      static_cast<const int64_t*>(order.const_data_ptr()),
      corner_scores ? static_cast<const float*>(corner_scores->const_data_ptr()) : nullptr,
      boxes.size(0), static_cast<Decay>(decay), static_cast<float>(sigma),
      static_cast<float>(iou_threshold), static_cast<float>(min_score),
      static_cast<float>(exponent), max_picks,
      static_cast<float*>(new_scores.mutable_data_ptr()),
      static_cast<float*>(merged.mutable_data_ptr())};
  return {new_scores, merged, args};
}

}  // namespace cornernet_d2
