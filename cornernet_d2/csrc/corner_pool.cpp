// CPU kernels of the corner-pool operators for torch's stable ABI.
// Schemas and the rules for autograd, fake tensors and vmap are in Python (cornernet_d2/layers).
#include "cpu/dispatch.h"
#include "cpu/fused.h"
#include "cpu/lines.h"
#include "cpu/rows.h"
#include "operands.h"

#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace cornernet_d2 {
namespace {

using torch::stable::Tensor;

// A thread is worth starting for this many elements (at::internal::GRAIN_SIZE).
constexpr int64_t kGrainElements = 32768;
// Channels a task of the channels-last sum: its running maxima (W + 1 rows) stay in a 1 MiB
// second-level cache for maps up to 500 wide.
constexpr int64_t kSumChannels = 512;
constexpr int64_t kBlockMultiple = 32;  // lanes of the widest vector of the narrowest type

template <class Kernel, class Args>
void run_parallel(const Args& args, int64_t tasks, int64_t elements_per_task) {
  const int64_t grain =
      std::max<int64_t>(1, kGrainElements / std::max<int64_t>(elements_per_task, 1));
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    run_best<Kernel>(args, begin, end);
  });
}

template <class Lines, class Rows, class Bits>
void run_pool(const PoolArgs<Bits>& args) {
  const Plan& plan = args.plan;
  if (plan.rows) return run_parallel<Rows>(args, plan.outer_count(), plan.scan);
  run_parallel<Lines>(args, line_tasks(plan, args.block), plan.scan * args.block);
}

template <class Format>
void forward_kernel(const Plan& plan, bool reverse, Tensor& y, const Tensor& x) {
  using Bits = typename Format::Bits;
  PoolArgs<Bits> args{plan, reverse, std::min(kLineBlock, plan.inner),
                      static_cast<Bits*>(y.mutable_data_ptr()),
                      static_cast<const Bits*>(x.const_data_ptr()), nullptr};
  run_pool<LinesForward<Format>, RowsForward<Format>>(args);
}

template <class Bits>
PoolArgs<Bits> backward_args(
    const Plan& plan, bool reverse, Tensor& grad_x, const Tensor& grad_y, const Tensor& x) {
  const int64_t block = plan.rows ? 0 : std::min(backward_line_block(plan.scan), plan.inner);
  return {plan, reverse, block, static_cast<Bits*>(grad_x.mutable_data_ptr()),
          static_cast<const Bits*>(grad_y.const_data_ptr()),
          static_cast<const Bits*>(x.const_data_ptr())};
}

template <class Format>
void backward_kernel(
    const Plan& plan, bool reverse, Tensor& grad_x, const Tensor& grad_y, const Tensor& x) {
  const auto args = backward_args<typename Format::Bits>(plan, reverse, grad_x, grad_y, x);
  run_pool<LinesBackward<Format>, RowsBackward<Format>>(args);
}

template <class Format>
void sum_kernel(
    bool reverse, bool channels_last, Tensor& y, const Tensor& vertical, const Tensor& horizontal) {
  using Bits = typename Format::Bits;
  SumArgs<Bits> args{y.size(0), y.size(1), y.size(2), y.size(3), {}, reverse,
                     std::min<int64_t>(y.size(1), kSumChannels),
                     static_cast<Bits*>(y.mutable_data_ptr()),
                     static_cast<const Bits*>(vertical.const_data_ptr()),
                     static_cast<const Bits*>(horizontal.const_data_ptr())};
  const Tensor* operands[] = {&y, &vertical, &horizontal};
  for (int i = 0; i < 3; ++i) std::copy_n(operands[i]->strides().data(), kDims, args.stride[i]);
  const int64_t plane = args.rows * args.columns;
  if (channels_last) {
    // Whole vectors a block, so that the running maxima can be loaded and stored unguarded.
    args.block = (args.block + kBlockMultiple - 1) / kBlockMultiple * kBlockMultiple;
    const int64_t blocks = (args.channels + args.block - 1) / args.block;
    return run_parallel<SumChannels<Format>>(args, args.images * blocks, plane * args.block);
  }
  run_parallel<SumPlanes<Format>>(args, args.images * args.channels, plane);
}

template <class Format>
void sum_backward_kernel(
    const Plan& vertical_plan, const Plan& horizontal_plan, bool reverse, Tensor& grad_vertical,
    Tensor& grad_horizontal, const Tensor& grad_v, const Tensor& grad_h, const Tensor& vertical,
    const Tensor& horizontal) {
  using Bits = typename Format::Bits;
  typename SumPlanesBackward<Format>::Args args{
      backward_args<Bits>(vertical_plan, reverse, grad_vertical, grad_v, vertical),
      backward_args<Bits>(horizontal_plan, reverse, grad_horizontal, grad_h, horizontal), 0,
      vertical_plan.scan};
  const int64_t planes = vertical_plan.outer_count();
  if (!vertical_plan.rows && horizontal_plan.rows &&
      planes * args.rows == horizontal_plan.outer_count()) {
    args.line_tasks = line_tasks(vertical_plan, args.vertical.block) / planes;
    const int64_t elements = vertical_plan.scan * vertical_plan.inner;
    return run_parallel<SumPlanesBackward<Format>>(args, planes, elements);
  }
  run_pool<LinesBackward<Format>, RowsBackward<Format>>(args.vertical);
  run_pool<LinesBackward<Format>, RowsBackward<Format>>(args.horizontal);
}

Tensor corner_pool(const Tensor& x, int64_t dim, bool reverse) {
  check_map(x, dim);
  Tensor y = torch::stable::empty_like(x);
  if (x.numel() == 0) return y;
  const auto [source, plan] = plan_forward(y, x, dim);
  CORNERNET_DISPATCH(x, forward_kernel, plan, reverse, y, source);
  return y;
}

Tensor corner_pool_backward(const Tensor& grad_y, const Tensor& x, int64_t dim, bool reverse) {
  check_map(x, dim);
  check_same(x, grad_y, "grad");
  Tensor grad_x = torch::stable::empty_like(x);
  if (x.numel() == 0) return grad_x;
  const auto [grad, second, plan] = plan_backward(grad_x, grad_y, x, dim);
  CORNERNET_DISPATCH(x, backward_kernel, plan, reverse, grad_x, grad, second);
  return grad_x;
}

Tensor corner_pool_sum(const Tensor& vertical, const Tensor& horizontal, bool reverse) {
  check_map(vertical, 2);
  check_same(vertical, horizontal, "horizontal");
  Tensor y = torch::stable::empty_like(vertical);
  if (y.numel() == 0) return y;
  Tensor target = has_contiguous_rows_or_channels(y) ? y : contiguous_like(y);
  const Tensor v = with_shared_contiguous_dim(vertical, target);
  const Tensor h = with_shared_contiguous_dim(horizontal, target);
  const bool channels_last = contiguous_dim_of(target) == 1;
  CORNERNET_DISPATCH(y, sum_kernel, reverse, channels_last, target, v, h);
  if (target.get() != y.get()) torch::stable::copy_(y, target);
  return y;
}

std::tuple<Tensor, Tensor> corner_pool_sum_backward(
    const Tensor& grad, const Tensor& vertical, const Tensor& horizontal, bool reverse) {
  check_map(vertical, 2);
  check_same(vertical, horizontal, "horizontal");
  check_same(vertical, grad, "grad");
  Tensor grad_vertical = torch::stable::empty_like(vertical);
  Tensor grad_horizontal = torch::stable::empty_like(horizontal);
  if (grad.numel() == 0) return {grad_vertical, grad_horizontal};
  const auto [grad_v, v, vertical_plan] = plan_backward(grad_vertical, grad, vertical, 2);
  const auto [grad_h, h, horizontal_plan] = plan_backward(grad_horizontal, grad, horizontal, 3);
  CORNERNET_DISPATCH(grad, sum_backward_kernel, vertical_plan, horizontal_plan, reverse,
                     grad_vertical, grad_horizontal, grad_v, grad_h, v, h);
  return {grad_vertical, grad_horizontal};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cornernet_d2, CPU, m) {
  m.impl("corner_pool", TORCH_BOX(&corner_pool));
  m.impl("corner_pool_backward", TORCH_BOX(&corner_pool_backward));
  m.impl("corner_pool_sum", TORCH_BOX(&corner_pool_sum));
  m.impl("corner_pool_sum_backward", TORCH_BOX(&corner_pool_sum_backward));
}

}  // namespace cornernet_d2

extern "C" PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
