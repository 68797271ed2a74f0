// CPU entry point of cornernet_d2::soft_nms (stable ABI).
#include "cpu/dispatch.h"
#include "cpu/soft_nms.h"
#include "soft_nms_operands.h"

#include <torch/csrc/stable/library.h>

namespace cornernet_d2 {
namespace {

std::tuple<Tensor, Tensor> soft_nms(
    const Tensor& boxes, const Tensor& scores, const Tensor& groups, const Tensor& order,
    const std::optional<Tensor>& corner_scores, int64_t decay, double sigma, double iou_threshold,
    double min_score, double exponent, int64_t max_picks) {
  auto [new_scores, merged, args] =
      soft_nms_operands(boxes, scores, groups, order, corner_scores, decay, sigma, iou_threshold,
                        min_score, exponent, max_picks);
  std::vector<int64_t> starts;
  for (int64_t j = 0; j < args.count; ++j) {
    if (j == 0 || args.groups[j] != args.groups[j - 1]) starts.push_back(j);
  }
  const int64_t groups_found = starts.size();
  starts.push_back(args.count);
  const SoftNmsGroups kernel{args, starts.data()};
  torch::stable::parallel_for(0, groups_found, 1, [&](int64_t begin, int64_t end) {
    run_best<SoftNmsGroups>(kernel, begin, end);
  });
  return {new_scores, merged};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cornernet_d2, CPU, m) { m.impl("soft_nms", TORCH_BOX(&soft_nms)); }

}  // namespace cornernet_d2
