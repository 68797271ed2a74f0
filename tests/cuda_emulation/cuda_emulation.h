// CUDA's execution model on one host thread: enough to run the corner-pool kernels unmodified.
//
// Every CUDA thread is a fiber (ucontext). A barrier or shuffle suspends the fiber until all
// threads of the block or warp have arrived. Fibers and blocks run in shuffled order, so that a
// result which depends on the order of threads between barriers shows up, and a block finds in
// shared memory what another left there. Divergent barriers are detected: a block whose fibers all
// wait, but not at one barrier, aborts.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(int64_t x_ = 1, int64_t y_ = 1, int64_t z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr int kWarpSize = 32;
constexpr size_t kStackBytes = 64 * 1024;

enum class Wait { kNone, kBlock, kWarp, kDone };

struct Fiber {
  ucontext_t context;  // enters the fiber; later switches jump, which saves two system calls each
  jmp_buf resume;
  bool entered;
  std::vector<char> stack;
  dim3 index;
  Wait wait;
  uint64_t slot;  // the value a shuffle offers to the warp
};

struct Block {
  std::vector<Fiber> fibers;
  jmp_buf scheduler;
  std::function<void()> body;
  int current = 0;
};

inline Block block;

inline void enter() {
  block.body();
  block.fibers[block.current].wait = Wait::kDone;
  _longjmp(block.scheduler, 1);
}

inline void run_until_suspended(int index) {
  Fiber& fiber = block.fibers[index];
  block.current = index;
  threadIdx = fiber.index;
  if (_setjmp(block.scheduler) != 0) return;
  if (fiber.entered) _longjmp(fiber.resume, 1);
  fiber.entered = true;
  setcontext(&fiber.context);
}

inline void suspend(Wait reason) {
  Fiber& self = block.fibers[block.current];
  self.wait = reason;
  if (_setjmp(self.resume) == 0) _longjmp(block.scheduler, 1);
}

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "cuda emulation: %s\n", what);
  std::abort();
}

// Lets the threads of [begin, end) go on if all wait for `reason`.
inline bool release(int begin, int end, Wait reason) {
  for (int i = begin; i < end; ++i) {
    if (block.fibers[i].wait != reason) return false;
  }
  for (int i = begin; i < end; ++i) block.fibers[i].wait = Wait::kNone;
  return true;
}

inline void run_block(std::mt19937& order_generator) {
  const int threads = static_cast<int>(block.fibers.size());
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    fiber.wait = Wait::kNone;
    fiber.entered = false;
    makecontext(&fiber.context, enter, 0);
  }
  while (true) {
    std::shuffle(order.begin(), order.end(), order_generator);
    bool progress = false;
    for (int i : order) {
      if (block.fibers[i].wait != Wait::kNone) continue;
      progress = true;
      run_until_suspended(i);
    }
    for (int warp = 0; warp < threads; warp += kWarpSize) {
      progress |= release(warp, std::min(warp + kWarpSize, threads), Wait::kWarp);
    }
    if (release(0, threads, Wait::kDone)) return;
    progress |= release(0, threads, Wait::kBlock);
    if (!progress) fail("threads wait at different barriers");
  }
}

// kernel<<<grid, block>>>(arguments...)
struct Launcher {
  template <class Kernel, class... Arguments>
  void operator()(Kernel kernel, dim3 grid, dim3 threads, Arguments... arguments) const {
    if (threads.x * threads.y * threads.z > 1024) fail("more than 1024 threads a block");
    gridDim = grid;
    blockDim = threads;
    block.fibers.resize(threads.x * threads.y * threads.z);
    for (size_t i = 0; i < block.fibers.size(); ++i) {
      block.fibers[i].stack.resize(kStackBytes);
      block.fibers[i].index = dim3(i % threads.x, i / threads.x % threads.y, 0);
    }
    block.body = [&] { kernel(arguments...); };
    std::mt19937 generator(grid.x);
    std::vector<unsigned> blocks(grid.x);
    std::iota(blocks.begin(), blocks.end(), 0u);
    std::shuffle(blocks.begin(), blocks.end(), generator);
    for (unsigned index : blocks) {
      blockIdx = dim3(index);
      run_block(generator);
    }
  }
};

// Every lane offers a value, all wait, then each reads the lane it names.
template <class T>
T exchange(T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  Fiber& self = block.fibers[block.current];
  const int warp = block.current / kWarpSize * kWarpSize;
  self.slot = 0;
  std::memcpy(&self.slot, &value, sizeof(T));
  suspend(Wait::kWarp);
  T result;
  std::memcpy(&result, &block.fibers[warp + source].slot, sizeof(T));
  suspend(Wait::kWarp);
  return result;
}

inline int lane() { return block.current % kWarpSize; }

}  // namespace emulation

inline void __syncthreads() { emulation::suspend(emulation::Wait::kBlock); }
inline void __syncwarp() { emulation::suspend(emulation::Wait::kWarp); }

template <class T>
T __shfl_sync(unsigned, T value, int source, int width) {
  const int lane = emulation::lane();
  return emulation::exchange(value, lane / width * width + (source % width));
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta, int width) {
  const int lane = emulation::lane();
  return emulation::exchange(value, lane % width >= delta ? lane - delta : lane);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int delta, int width) {
  const int lane = emulation::lane();
  return emulation::exchange(value, lane % width + delta < width ? lane + delta : lane);
}

inline unsigned __ballot_sync(unsigned, bool value) {
  unsigned result = 0;
  for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
    result |= unsigned(emulation::exchange(value, lane)) << lane;
  }
  return result;
}
inline int __ffs(int value) { return __builtin_ffs(value); }
// The four bytes of (b, a) that the four digits of `selector` name, as PRMT does.
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= uint32_t(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  }
  return result;
}

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
