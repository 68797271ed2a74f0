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

template <class T>
Args<T> make_args(
    const Plan& plan, bool reverse, const Tensor& out, const Tensor& in, const Tensor* second) {
  constexpr int64_t kLimit = 1 << 30;  // the kernels count lines and cells in 32 bits
  STD_TORCH_CHECK(
      plan.scan <= kLimit && plan.outer_count() * plan.inner <= kLimit,
      "corner_pool on CUDA takes at most 2**30 lines of at most 2**30 cells");
  return {plan, reverse, 0, static_cast<T*>(out.mutable_data_ptr()),
          static_cast<const T*>(in.const_data_ptr()),
          second ? static_cast<const T*>(second->const_data_ptr()) : nullptr};
}

template <class T>
void run_pool(
    const Plan& plan, bool reverse, const Tensor& out, const Tensor& in, const Tensor* second) {
  const auto args = make_args<T>(plan, reverse, out, in, second);
  const StreamLauncher launch(out.get_device_index());
  second ? launch_pool<T, Mode::kBackward>(args, launch)
         : launch_pool<T, Mode::kForward>(args, launch);
}

template <class T>
void run_sum(
    const Plan& vertical_plan, const Plan& horizontal_plan, bool reverse, const Tensor& y,
    const Tensor& vertical, const Tensor& horizontal) {
  launch_sum<T>(make_args<T>(vertical_plan, reverse, y, vertical, nullptr),
                make_args<T>(horizontal_plan, reverse, y, horizontal, nullptr),
                StreamLauncher(y.get_device_index()));
}

Tensor corner_pool(const Tensor& x, int64_t dim, bool reverse) {
  check_map(x, dim);
  const DeviceGuard guard(x.get_device_index());
  Tensor y = torch::stable::empty_like(x);
  if (x.numel() == 0) return y;
  const auto [source, plan] = plan_forward(y, x, dim);
  CORNERNET_DISPATCH(x, run_pool, plan, reverse, y, source, nullptr);
  return y;
}

Tensor corner_pool_backward(const Tensor& grad_y, const Tensor& x, int64_t dim, bool reverse) {
  check_map(x, dim);
  check_same(x, grad_y, "grad");
  const DeviceGuard guard(x.get_device_index());
  Tensor grad_x = torch::stable::empty_like(x);
  if (x.numel() == 0) return grad_x;
  const auto [grad, second, plan] = plan_backward(grad_x, grad_y, x, dim);
  CORNERNET_DISPATCH(x, run_pool, plan, reverse, grad_x, grad, &second);
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
  const auto [v, vertical_plan] = plan_forward(y, vertical, 2);
  const auto [h, horizontal_plan] = plan_forward(y, horizontal, 3);
  CORNERNET_DISPATCH(y, run_sum, vertical_plan, horizontal_plan, reverse, y, v, h);
  return y;
}

}  // namespace
}  // namespace gpu

STABLE_TORCH_LIBRARY_IMPL(cornernet_d2, CUDA, m) {
  m.impl("corner_pool", TORCH_BOX(&gpu::corner_pool));
  m.impl("corner_pool_backward", TORCH_BOX(&gpu::corner_pool_backward));
  m.impl("corner_pool_sum", TORCH_BOX(&gpu::corner_pool_sum));
}

}  // namespace cornernet_d2
