// Compiles a kernel for several vector widths and picks the widest one that the machine has.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace cornernet_d2 {

#if defined(__x86_64__)
#define CORNERNET_AVX2 __attribute__((target("avx2,fma,bmi,bmi2,f16c")))
#define CORNERNET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2,f16c")))

template <class Kernel, class Args>
CORNERNET_AVX2 void run_avx2(const Args& args, int64_t begin, int64_t end) {
  Kernel::template run<32>(args, begin, end);
}

template <class Kernel, class Args>
CORNERNET_AVX512 void run_avx512(const Args& args, int64_t begin, int64_t end) {
  Kernel::template run<64>(args, begin, end);
}

// ATEN_CPU_CAPABILITY (default, avx2, avx512) limits these kernels as it limits PyTorch's own.
inline int vector_bytes() {
  static const int bytes = [] {
    const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
    if (limit && std::strcmp(limit, "default") == 0) return 16;
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && !(limit && std::strcmp(limit, "avx2") == 0)) return 64;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 32 : 16;
  }();
  return bytes;
}
#endif

template <class Kernel, class Args>
void run_best(const Args& args, int64_t begin, int64_t end) {
#if defined(__x86_64__)
  if (vector_bytes() == 64) return run_avx512<Kernel>(args, begin, end);
  if (vector_bytes() == 32) return run_avx2<Kernel>(args, begin, end);
#endif
  Kernel::template run<16>(args, begin, end);
}

}  // namespace cornernet_d2
