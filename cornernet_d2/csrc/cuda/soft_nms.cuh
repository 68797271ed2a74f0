// Soft-NMS for CUDA, free of torch: the tests compile it for the host through an emulation.
//
// One block for every box: the one whose box is the first of its group takes the group, the others
// return at once. So no count of groups is needed on the host, which would have to wait for it.
// Each thread looks after every kThreads-th box. One barrier a pick: what a pass leaves of the
// scores, the next best box and the sums of the merged box are reduced together, into buffers that
// alternate. Sums are taken in a fixed order: results do not vary from run to run.
#pragma once

#include "../soft_nms.h"

#include <cstring>

namespace cornernet_d2 {
namespace gpu {

constexpr int kNmsThreads = 128;
constexpr int kNmsWarps = kNmsThreads / 32;
constexpr int kNmsHeld = 2048;  // scores of a group that shared memory holds; more go to `spare`

// The larger score first, then the smaller index. 0 stands for no box at all. Scores are above 0,
// so that their bits are in their order.
__device__ inline uint64_t rank_of(float score, int32_t j) {
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return uint64_t(bits) << 32 | uint32_t(~j);
}
__device__ inline float score_of(uint64_t rank) {
  const uint32_t bits = rank >> 32;
  float score;
  std::memcpy(&score, &bits, sizeof(score));
  return score;
}

struct Best {
  uint64_t rank;
  Mean mean;

  __device__ void join(const Best& other) {
    rank = rank > other.rank ? rank : other.rank;
    mean.x0 += other.mean.x0;
    mean.y0 += other.mean.y0;
    mean.x1 += other.mean.x1;
    mean.y1 += other.mean.y1;
    mean.first += other.mean.first;
    mean.second += other.mean.second;
  }
  // Lane 0 gets what its warp has found.
  __device__ void join_warp() {
    for (int step = 16; step > 0; step /= 2) {
      Best other;
      other.rank = __shfl_down_sync(0xffffffffu, rank, step, 32);
      other.mean.x0 = __shfl_down_sync(0xffffffffu, mean.x0, step, 32);
      other.mean.y0 = __shfl_down_sync(0xffffffffu, mean.y0, step, 32);
      other.mean.x1 = __shfl_down_sync(0xffffffffu, mean.x1, step, 32);
      other.mean.y1 = __shfl_down_sync(0xffffffffu, mean.y1, step, 32);
      other.mean.first = __shfl_down_sync(0xffffffffu, mean.first, step, 32);
      other.mean.second = __shfl_down_sync(0xffffffffu, mean.second, step, 32);
      join(other);
    }
  }
};

__device__ inline Box load_box(const float* boxes, int64_t i) {
  return {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
}

// `spare`: (M,), for groups of more than kNmsHeld boxes.
__global__ void __launch_bounds__(kNmsThreads) soft_nms_groups(SoftNmsArgs args, float* spare) {
  __shared__ float held[kNmsHeld];
  __shared__ Best found[2][kNmsWarps];
  const int64_t first = blockIdx.x;
  const int64_t group = args.groups[first];
  if (first > 0 && args.groups[first - 1] == group) return;
  int64_t end = first + 1, beyond = args.count;
  while (end < beyond) {  // the first place behind the group
    const int64_t middle = (end + beyond) / 2;
    if (args.groups[middle] == group) {
      end = middle + 1;
    } else {
      beyond = middle;
    }
  }
  const int32_t length = end - first;
  const int64_t* order = args.order + first;
  float* current = length <= kNmsHeld ? held : spare + first;

  Best best{};
  for (int32_t j = threadIdx.x; j < length; j += kNmsThreads) {
    const int64_t i = order[j];
    const float score = args.scores[i];
    const bool stays = score > 0 && score >= args.min_score;
    current[j] = stays ? score : 0.0f;
    if (stays && rank_of(score, j) > best.rank) best.rank = rank_of(score, j);
    args.new_scores[i] = 0;
    for (int k = 0; k < 4; ++k) args.merged[4 * i + k] = args.boxes[4 * i + k];
  }

  int64_t last = -1;  // the box that the pass before took
  for (int64_t pick = 0;; ++pick) {
    best.join_warp();
    if (threadIdx.x % 32 == 0) found[pick % 2][threadIdx.x / 32] = best;
    __syncthreads();
    best = found[pick % 2][0];
    for (int warp = 1; warp < kNmsWarps; ++warp) best.join(found[pick % 2][warp]);
    if (threadIdx.x == 0 && last >= 0 && args.corners) best.mean.store(args.merged + 4 * last);
    if (best.rank == 0 || pick == args.max_picks) return;

    const int32_t taken = ~int32_t(uint32_t(best.rank));
    last = order[taken];
    if (threadIdx.x == 0) args.new_scores[last] = score_of(best.rank);
    const Box box = load_box(args.boxes, last);
    best = Best{};
    for (int32_t j = threadIdx.x; j < length; j += kNmsThreads) {
      float score = current[j];
      if (score == 0) continue;
      const int64_t i = order[j];
      const Box other = load_box(args.boxes, i);
      const float weight =
          j == taken ? 0.0f : weight_of(args, intersection(box, other), box.area(), other.area());
      if (args.corners && weight < 1) {
        const float share = j == taken ? 1.0f : powf(1 - weight, args.exponent);
        best.mean.add(other, args.corners + 2 * i, share);
      }
      score *= weight;
      if (!(score > 0 && score >= args.min_score)) score = 0;
      current[j] = score;
      if (score > 0 && rank_of(score, j) > best.rank) best.rank = rank_of(score, j);
    }
  }
}

template <class Launch>
void launch_soft_nms(const SoftNmsArgs& args, float* spare, const Launch& launch) {
  launch(&soft_nms_groups, dim3(args.count), dim3(kNmsThreads), args, spare);
}

}  // namespace gpu
}  // namespace cornernet_d2
