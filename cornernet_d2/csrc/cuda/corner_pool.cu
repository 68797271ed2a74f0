// CUDA entry points of the corner-pool operators (stable ABI); the kernels are in corner_pool.cuh.
#include "../operands.h"
#include "corner_pool.cuh"

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

namespace cornernet_d2 {
namespace gpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// Starts kernels on the stream that is current on the tensors' device.
struct StreamLauncher {
  cudaStream_t stream = nullptr;

  explicit StreamLauncher(int32_t device) {
    void* current = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &current));
    stream = static_cast<cudaStream_t>(current);
  }
  template <class Kernel, class... Arguments>
  void operator()(Kernel kernel, dim3 grid, dim3 block, Arguments... arguments) const {
    kernel<<<grid, block, 0, stream>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

template <class Bits>
Args<Bits> make_args(
    const Plan& plan, bool reverse, const Tensor& out, const Tensor& in, const Tensor* key) {
  return {plan, reverse, static_cast<Bits*>(out.mutable_data_ptr()),
          static_cast<const Bits*>(in.const_data_ptr()),
          key ? static_cast<const Bits*>(key->const_data_ptr()) : nullptr};
}

template <class F>
void run_forward(const Plan& plan, bool reverse, const Tensor& y, const Tensor& x) {
  const auto args = make_args<typename F::Bits>(plan, reverse, y, x, nullptr);
  launch_pool<F, false>(args, StreamLauncher(y.get_device_index()));
}

template <class F>
void run_backward(
    const Plan& plan, bool reverse, const Tensor& grad_x, const Tensor& grad_y, const Tensor& x) {
  const auto args = make_args<typename F::Bits>(plan, reverse, grad_x, grad_y, &x);
  launch_pool<F, true>(args, StreamLauncher(x.get_device_index()));
}

template <class F>
void run_sum(
    const Plan& plan, bool reverse, const Tensor& y, const Tensor& vertical,
    const Tensor& horizontal) {
  const auto args = make_args<typename F::Bits>(plan, reverse, y, vertical, &horizontal);
  launch_sum<F>(args, StreamLauncher(y.get_device_index()));
}

#define CORNERNET_DISPATCH(TENSOR, FUNCTION, ...)                                 \
  switch ((TENSOR).scalar_type()) {                                               \
    case ScalarType::Float: FUNCTION<Float32>(__VA_ARGS__); break;                \
    case ScalarType::Double: FUNCTION<Float64>(__VA_ARGS__); break;               \
    case ScalarType::Half: FUNCTION<Float16>(__VA_ARGS__); break;                 \
    case ScalarType::BFloat16: FUNCTION<BFloat16>(__VA_ARGS__); break;            \
    default: STD_TORCH_CHECK(false, "corner_pool needs a floating-point tensor"); \
  }

Tensor corner_pool(const Tensor& x, int64_t dim, bool reverse) {
  check_map(x, dim);
  const DeviceGuard guard(x.get_device_index());
  Tensor y = torch::stable::empty_like(x);
  if (x.numel() == 0) return y;
  const auto [source, plan] = plan_forward(y, x, dim);
  CORNERNET_DISPATCH(x, run_forward, plan, reverse, y, source);
  return y;
}

Tensor corner_pool_backward(const Tensor& grad_y, const Tensor& x, int64_t dim, bool reverse) {
  check_map(x, dim);
  check_same(x, grad_y, "grad");
  const DeviceGuard guard(x.get_device_index());
  Tensor grad_x = torch::stable::empty_like(x);
  if (x.numel() == 0) return grad_x;
  const auto [grad, key, plan] = plan_backward(grad_x, grad_y, x, dim);
  CORNERNET_DISPATCH(x, run_backward, plan, reverse, grad_x, grad, key);
  return grad_x;
}

// The gradients of the sum come from two corner_pool_backward calls: one kernel for both would save
// reading the gradient once, a sixth of the bytes, and at training sizes that read hits the cache.
Tensor corner_pool_sum(const Tensor& vertical, const Tensor& horizontal, bool reverse) {
  check_map(vertical, 2);
  check_same(vertical, horizontal, "horizontal");
  const DeviceGuard guard(vertical.get_device_index());
  Tensor y = torch::stable::empty_like(vertical);
  if (y.numel() == 0) return y;
  const auto [v, h, plan] = plan_backward(y, vertical, horizontal, 2);
  if (fusible(plan, y.size(3), y.stride(3))) {
    CORNERNET_DISPATCH(y, run_sum, plan, reverse, y, v, h);
    return y;
  }
  const Tensor pooled = corner_pool(vertical, 2, reverse);
  return torch::stable::copy_(
      y, torch::stable::subtract(pooled, corner_pool(horizontal, 3, reverse), -1.0));
}

}  // namespace
}  // namespace gpu

STABLE_TORCH_LIBRARY_IMPL(cornernet_d2, CUDA, m) {
  m.impl("corner_pool", TORCH_BOX(&gpu::corner_pool));
  m.impl("corner_pool_backward", TORCH_BOX(&gpu::corner_pool_backward));
  m.impl("corner_pool_sum", TORCH_BOX(&gpu::corner_pool_sum));
}

}  // namespace cornernet_d2
