// The CUDA kernels behind a C interface, compiled for the host.
#include "cuda_emulation.h"

#include "cuda/corner_pool.cuh"

using namespace cornernet_d2;

namespace {

enum Operation { kForward = 0, kBackward = 1, kSum = 2 };

// Tensors as (out, in, key); `strides` holds four strides for each. Returns -1 where the operands
// share no contiguous dimension or the sum cannot be fused, else 16 or less: bytes an access.
template <class F>
int run(int operation, const int64_t* sizes, const int64_t* strides, void* const* data, int dim,
        bool reverse) {
  using Bits = typename F::Bits;
  const int64_t* operand_strides[] = {strides, strides + kDims, strides + 2 * kDims};
  const int operands = operation == kForward ? 2 : 3;
  const int inner = contiguous_dim(sizes, operand_strides, operands);
  if (inner < 0) return -1;
  const Plan plan = make_plan(sizes, operand_strides, operands, dim, inner);
  gpu::Args<Bits> args{plan, reverse, static_cast<Bits*>(data[0]),
                       static_cast<const Bits*>(data[1]), static_cast<const Bits*>(data[2])};
  const emulation::Launcher launch;
  if (operation == kSum) {
    if (!gpu::fusible(plan, sizes[3], operand_strides[0][3])) return -1;
    gpu::launch_sum<F>(args, launch);
  } else if (operation == kForward) {
    gpu::launch_pool<F, false>(args, launch);
  } else {
    gpu::launch_pool<F, true>(args, launch);
  }
  return gpu::vectorizable(args, operands) ? gpu::kVectorBytes : sizeof(Bits);
}

}  // namespace

// dtype: 0 float32, 1 float64, 2 float16, 3 bfloat16
extern "C" int emulate(int operation, int dtype, const int64_t* sizes, const int64_t* strides,
                       void* const* data, int dim, int reverse) {
  switch (dtype) {
    case 0: return run<gpu::Float32>(operation, sizes, strides, data, dim, reverse);
    case 1: return run<gpu::Float64>(operation, sizes, strides, data, dim, reverse);
    case 2: return run<gpu::Float16>(operation, sizes, strides, data, dim, reverse);
    default: return run<gpu::BFloat16>(operation, sizes, strides, data, dim, reverse);
  }
}
