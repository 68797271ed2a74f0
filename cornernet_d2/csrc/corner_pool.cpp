// CPU kernels of the corner-pool operators for torch's stable ABI.
// The schemas, autograd, fake and vmap rules live in Python (cornernet_d2/layers); only kernels here.
#include "cpu/dispatch.h"
#include "cpu/kernels.h"
#include "operands.h"

#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace cornernet_d2 {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A thread is worth starting for this many elements (at::internal::GRAIN_SIZE).
constexpr int64_t kGrainElements = 32768;

template <class Kernel, class Args>
void run_parallel(const Args& args, int64_t tasks, int64_t elements_per_task) {
  const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(elements_per_task, 1));
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    run_best<Kernel>(args, begin, end);
  });
}

template <class Lines, class Rows, class Bits>
void run_pool(PoolArgs<Bits> args, int64_t block) {
  const Plan& plan = args.plan;
  if (plan.rows) return run_parallel<Rows>(args, plan.outer_count(), plan.scan);
  args.block = std::min(block, plan.inner);
  run_parallel<Lines>(args, line_tasks(plan, args.block), plan.scan * args.block);
}

template <class Format>
void forward_kernel(const Plan& plan, bool reverse, Tensor& y, const Tensor& x) {
  using Bits = typename Format::Bits;
  PoolArgs<Bits> args{plan, reverse, 0, static_cast<Bits*>(y.mutable_data_ptr()),
                      static_cast<const Bits*>(x.const_data_ptr()), nullptr};
  run_pool<LinesForward<Format>, RowsForward<Format>>(args, kLineBlock);
}

template <class Format>
void backward_kernel(
    const Plan& plan, bool reverse, Tensor& grad_x, const Tensor& grad_y, const Tensor& x) {
  using Bits = typename Format::Bits;
  PoolArgs<Bits> args{plan, reverse, 0, static_cast<Bits*>(grad_x.mutable_data_ptr()),
                      static_cast<const Bits*>(grad_y.const_data_ptr()),
                      static_cast<const Bits*>(x.const_data_ptr())};
  run_pool<LinesBackward<Format>, RowsBackward<Format>>(args, backward_line_block(plan.scan));
}

#define CORNERNET_DISPATCH(TENSOR, FUNCTION, ...)                                     \
  switch ((TENSOR).scalar_type()) {                                                   \
    case ScalarType::Float: FUNCTION<Float32>(__VA_ARGS__); break;                    \
    case ScalarType::Double: FUNCTION<Float64>(__VA_ARGS__); break;                   \
    case ScalarType::Half: FUNCTION<Float16>(__VA_ARGS__); break;                     \
    case ScalarType::BFloat16: FUNCTION<BFloat16>(__VA_ARGS__); break;                \
    default: STD_TORCH_CHECK(false, "corner_pool needs a floating-point tensor");     \
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
  const auto [grad, key, plan] = plan_backward(grad_x, grad_y, x, dim);
  CORNERNET_DISPATCH(x, backward_kernel, plan, reverse, grad_x, grad, key);
  return grad_x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cornernet_d2, CPU, m) {
  m.impl("corner_pool", TORCH_BOX(&corner_pool));
  m.impl("corner_pool_backward", TORCH_BOX(&corner_pool_backward));
}

}  // namespace cornernet_d2

extern "C" PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
