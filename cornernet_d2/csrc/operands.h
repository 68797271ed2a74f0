// Argument checks and layout planning shared by the CPU and CUDA entry points (stable ABI).
#pragma once

#include "plan.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

namespace cornernet_d2 {

inline void check_map(const torch::stable::Tensor& x, int64_t dim) {
  STD_TORCH_CHECK(
      x.dim() == kDims, "corner_pool expects a map (N, C, H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(dim == 2 || dim == 3, "corner_pool scans dimension 2 (H) or 3 (W), got ", dim);
}

inline void check_same(
    const torch::stable::Tensor& x, const torch::stable::Tensor& other, const char* name) {
  bool same = other.dim() == x.dim() && other.scalar_type() == x.scalar_type() &&
      other.get_device_index() == x.get_device_index() && other.is_cuda() == x.is_cuda();
  for (int64_t d = 0; same && d < x.dim(); ++d) same = other.size(d) == x.size(d);
  STD_TORCH_CHECK(same, "corner_pool: ", name, " must have the shape, dtype and device of the map");
}

inline int contiguous_dim_of(const torch::stable::Tensor& x) {
  const int64_t* strides[] = {x.strides().data()};
  return contiguous_dim(x.sizes().data(), strides, 1);
}

// NCHW or channels_last, up to dimensions of size 1: the layouts of the fused kernels.
inline bool has_contiguous_rows_or_channels(const torch::stable::Tensor& x) {
  const int dim = contiguous_dim_of(x);
  return dim == 1 || dim == 3;
}

inline torch::stable::Tensor contiguous_like(const torch::stable::Tensor& x) {
  return torch::stable::new_empty(x, x.sizes());
}

// `source` with the strides of the dense tensor `like`; a copy only where no dimension is
// contiguous in both (a transposed or strided view).
inline torch::stable::Tensor with_shared_contiguous_dim(
    const torch::stable::Tensor& source, const torch::stable::Tensor& like) {
  const int64_t* strides[] = {like.strides().data(), source.strides().data()};
  if (contiguous_dim(like.sizes().data(), strides, 2) ==
      contiguous_dim(like.sizes().data(), strides, 1)) {
    return source;
  }
  torch::stable::Tensor copy = torch::stable::empty_like(like);
  return torch::stable::copy_(copy, source);
}

inline std::tuple<torch::stable::Tensor, Plan> plan_forward(
    const torch::stable::Tensor& y, const torch::stable::Tensor& x, int64_t dim) {
  const torch::stable::Tensor source = with_shared_contiguous_dim(x, y);
  const int64_t* sizes = y.sizes().data();
  const int64_t* strides[] = {y.strides().data(), source.strides().data()};
  const int inner = contiguous_dim(sizes, strides, 2);
  return {source, make_plan(sizes, strides, 2, static_cast<int>(dim), inner)};
}

inline std::tuple<torch::stable::Tensor, torch::stable::Tensor, Plan> plan_backward(
    const torch::stable::Tensor& grad_x,
    const torch::stable::Tensor& grad_y,
    const torch::stable::Tensor& x,
    int64_t dim) {
  const torch::stable::Tensor grad = with_shared_contiguous_dim(grad_y, grad_x);
  const torch::stable::Tensor second = with_shared_contiguous_dim(x, grad_x);
  const int64_t* sizes = grad_x.sizes().data();
  const int64_t* strides[] = {
      grad_x.strides().data(), grad.strides().data(), second.strides().data()};
  const int inner = contiguous_dim(sizes, strides, 3);
  return {grad, second, make_plan(sizes, strides, 3, static_cast<int>(dim), inner)};
}

}  // namespace cornernet_d2

// FUNCTION<type>(...) for the floating-point type of TENSOR, as the caller's namespace defines it.
#define CORNERNET_DISPATCH(TENSOR, FUNCTION, ...)                                        \
  switch ((TENSOR).scalar_type()) {                                                      \
    case torch::headeronly::ScalarType::Float: FUNCTION<Float32>(__VA_ARGS__); break;    \
    case torch::headeronly::ScalarType::Double: FUNCTION<Float64>(__VA_ARGS__); break;   \
    case torch::headeronly::ScalarType::Half: FUNCTION<Float16>(__VA_ARGS__); break;     \
    case torch::headeronly::ScalarType::BFloat16: FUNCTION<BFloat16>(__VA_ARGS__); break; \
    default: STD_TORCH_CHECK(false, "corner_pool needs a floating-point tensor");        \
  }
