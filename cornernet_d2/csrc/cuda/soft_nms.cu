// CUDA entry point of cornernet_d2::soft_nms (stable ABI); the kernel is in soft_nms.cuh.
#include "../soft_nms_operands.h"
#include "soft_nms.cuh"

#include <Python.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

namespace cornernet_d2 {
namespace gpu {
namespace {

std::tuple<Tensor, Tensor> soft_nms(
    const Tensor& boxes, const Tensor& scores, const Tensor& groups, const Tensor& order,
    const std::optional<Tensor>& corner_scores, int64_t decay, double sigma, double iou_threshold,
    double min_score, double exponent, int64_t max_picks) {
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const auto [new_scores, merged, args] =
      soft_nms_operands(boxes, scores, groups, order, corner_scores, decay, sigma, iou_threshold,
                        min_score, exponent, max_picks);
  if (args.count == 0) return {new_scores, merged};
  const Tensor spare = torch::stable::empty_like(scores);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(boxes.get_device_index(), &stream));
  launch_soft_nms(args, static_cast<float*>(spare.mutable_data_ptr()),
                  [&](auto kernel, dim3 grid, dim3 block, auto... arguments) {
                    kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
                    STD_CUDA_KERNEL_LAUNCH_CHECK();
                  });
  return {new_scores, merged};
}

}  // namespace
}  // namespace gpu

STABLE_TORCH_LIBRARY_IMPL(cornernet_d2, CUDA, m) { m.impl("soft_nms", TORCH_BOX(&gpu::soft_nms)); }

}  // namespace cornernet_d2

extern "C" PyObject* PyInit__C_cuda(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
