// The CUDA kernel of soft-NMS behind a C interface, compiled for the host.
#include "cuda_emulation.h"

#include "cuda/soft_nms.cuh"

using namespace cornernet_d2;

// data: boxes, scores, groups, order, corner scores or null, spare, new scores, merged.
// settings: sigma, IoU threshold, least score, exponent.
extern "C" void emulate_soft_nms(void* const* data, const float* settings, int64_t count,
                                 int64_t decay, int64_t max_picks) {
  auto* floats = reinterpret_cast<float* const*>(data);
  auto* integers = reinterpret_cast<int64_t* const*>(data);
  const SoftNmsArgs args{floats[0], floats[1], integers[2], integers[3], floats[4], count,
                         static_cast<Decay>(decay), settings[0], settings[1], settings[2],
                         settings[3], max_picks, floats[6], floats[7]};
  gpu::launch_soft_nms(args, floats[5], emulation::Launcher());
}
