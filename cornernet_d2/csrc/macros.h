// Function attributes.
#pragma once

// Compiled for the instruction set of its caller (cpu/dispatch.h), hence never on its own.
#define CORNERNET_INLINE inline __attribute__((always_inline))

// Usable from CUDA kernels as well.
#if defined(__CUDACC__)
#define CORNERNET_SHARED __host__ __device__ __forceinline__
#else
#define CORNERNET_SHARED CORNERNET_INLINE
#endif
