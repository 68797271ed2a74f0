// The CUDA kernels behind a C interface, compiled for the host.
#include "cuda_emulation.h"

#include "cuda/corner_pool.cuh"

using namespace cornernet_d2;

namespace {

enum Operation { kForward = 0, kBackward = 1, kSum = 2 };

struct Operands {
  const int64_t* sizes;
  const int64_t* strides;  // four for each of out, in, second
  void* const* data;

  // The launch's arguments for operands 0 and the `count` - 1 from `first` on; width -1 where they
  // share no contiguous dimension: the operators copy such views.
  template <class T>
  gpu::Args<T> args(int first, int count, int dim, bool reverse) const {
    const int64_t* operand_strides[] = {
        strides, strides + first * kDims, strides + (first + 1) * kDims};
    const int inner = contiguous_dim(sizes, operand_strides, count);
    if (inner < 0) return {{}, reverse, -1, nullptr, nullptr, nullptr};
    return {make_plan(sizes, operand_strides, count, dim, inner), reverse, 0,
            static_cast<T*>(data[0]), static_cast<const T*>(data[first]),
            count == 3 ? static_cast<const T*>(data[2]) : nullptr};
  }
};

// Returns bytes an access, or -1 where the operands must be copied first.
template <class T, class Launch>
int run(int operation, const Operands& operands, int dim, bool reverse, const Launch& launch) {
  if (operation == kSum) {
    const auto vertical = operands.args<T>(1, 2, 2, reverse);
    const auto horizontal = operands.args<T>(2, 2, 3, reverse);
    if (vertical.width < 0 || horizontal.width < 0) return -1;
    gpu::launch_sum<T>(vertical, horizontal, launch);
    const bool wide = gpu::vectorizable(vertical, 2) && gpu::vectorizable(horizontal, 2);
    return wide ? gpu::kVectorBytes : sizeof(T);
  }
  const int count = operation == kForward ? 2 : 3;
  const auto args = operands.args<T>(1, count, dim, reverse);
  if (args.width < 0) return -1;
  if (operation == kForward) {
    gpu::launch_pool<T, gpu::Mode::kForward>(args, launch);
  } else {
    gpu::launch_pool<T, gpu::Mode::kBackward>(args, launch);
  }
  return gpu::vectorizable(args, count) ? sizeof(T) * gpu::kVectorLength<T> : sizeof(T);
}

template <class Launch>
int dispatch(int operation, int dtype, const Operands& operands, int dim, bool reverse,
             const Launch& launch) {
  switch (dtype) {
    case 0: return run<gpu::Float32>(operation, operands, dim, reverse, launch);
    case 1: return run<gpu::Float64>(operation, operands, dim, reverse, launch);
    case 2: return run<gpu::Float16>(operation, operands, dim, reverse, launch);
    default: return run<gpu::BFloat16>(operation, operands, dim, reverse, launch);
  }
}

struct Record {
  unsigned grid, block[2];
  int size;
  unsigned char args[256];
};

// Notes launches instead of running them.
struct Recorder {
  mutable Record* next;

  template <class Kernel, class T>
  void operator()(Kernel, dim3 grid, dim3 block, const gpu::Args<T>& args) const {
    static_assert(sizeof(args) <= sizeof(next->args));
    *next = {grid.x, {block.x, block.y}, sizeof(args), {}};
    std::memcpy(next++->args, &args, sizeof(args));
  }
};

}  // namespace

// dtype: 0 float32, 1 float64, 2 float16, 3 bfloat16
extern "C" int emulate(int operation, int dtype, const int64_t* sizes, const int64_t* strides,
                       void* const* data, int dim, int reverse) {
  return dispatch(operation, dtype, {sizes, strides, data}, dim, reverse, emulation::Launcher());
}

// Fills `records`, room for two, and returns how many launches there are.
extern "C" int geometry(int operation, int dtype, const int64_t* sizes, const int64_t* strides,
                        void* const* data, int dim, int reverse, Record* records) {
  const Recorder recorder{records};
  dispatch(operation, dtype, {sizes, strides, data}, dim, reverse, recorder);
  return static_cast<int>(recorder.next - records);
}
