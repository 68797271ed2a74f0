// Soft-NMS on the CPU: a task is one group, whose boxes are laid out coordinate by coordinate.
#pragma once

#include "../soft_nms.h"

#include <algorithm>
#include <vector>

namespace cornernet_d2 {

struct SoftNmsGroups {
  const SoftNmsArgs& args;
  const int64_t* starts;  // of each group in `order`, and the end of the last

  // One group's boxes that are left, in the order of the input.
  struct Rows {
    std::vector<float> x0, y0, x1, y1, area, score, inner;
    std::vector<int64_t> box;

    explicit Rows(int64_t n)
        : x0(n), y0(n), x1(n), y1(n), area(n), score(n), inner(n), box(n) {}
    Box at(int64_t j) const { return {x0[j], y0[j], x1[j], y1[j]}; }
  };

  template <int Bytes>  // the compiler vectorizes what is worth it
  CORNERNET_INLINE static void run(const SoftNmsGroups& self, int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      self.take(self.args.order + self.starts[g], self.starts[g + 1] - self.starts[g]);
    }
  }

  CORNERNET_INLINE void take(const int64_t* order, int64_t n) const {
    Rows rows(n);
    n = load(rows, order, n);
    for (int64_t pick = 0; n > 0 && pick < args.max_picks; ++pick) {
      const int64_t best =
          std::max_element(rows.score.begin(), rows.score.begin() + n) - rows.score.begin();
      n = sweep(rows, best, n);
    }
  }

  CORNERNET_INLINE bool stays(float score) const { return score > 0 && score >= args.min_score; }

  CORNERNET_INLINE int64_t load(Rows& rows, const int64_t* order, int64_t n) const {
    int64_t kept = 0;
    for (int64_t j = 0; j < n; ++j) {
      const int64_t i = order[j];
      const float* box = args.boxes + 4 * i;
      args.new_scores[i] = 0;
      std::copy_n(box, 4, args.merged + 4 * i);
      if (!stays(args.scores[i])) continue;
      rows.x0[kept] = box[0];
      rows.y0[kept] = box[1];
      rows.x1[kept] = box[2];
      rows.y1[kept] = box[3];
      rows.area[kept] = rows.at(kept).area();
      rows.score[kept] = args.scores[i];
      rows.box[kept++] = i;
    }
    return kept;
  }

  // Takes row `best` out of n, lowers the others' scores, and closes the gaps of those that go.
  // Returns how many are left.
  CORNERNET_INLINE int64_t sweep(Rows& rows, int64_t best, int64_t n) const {
    const Box box = rows.at(best);
    const float area = rows.area[best];
    Mean mean{};
    args.new_scores[rows.box[best]] = rows.score[best];
    float* inner = rows.inner.data();
    for (int64_t j = 0; j < n; ++j) inner[j] = intersection(box, rows.at(j));
    // A weight of 1 and a share of 0 is what boxes apart leave each other.
    const bool apart = weight_of(args, 0, 1, 1) == 1;
    int64_t kept = 0;
    const int64_t taken = rows.box[best];
    for (int64_t j = 0; j < n; ++j) {
      float score = rows.score[j];
      if (inner[j] > 0 || !apart || j == best) {
        const float weight = j == best ? 0 : weight_of(args, inner[j], area, rows.area[j]);
        if (args.corners) {
          const float share = j == best ? 1 : std::pow(1 - weight, args.exponent);
          mean.add(rows.at(j), args.corners + 2 * rows.box[j], share);
        }
        score *= weight;
        if (!stays(score)) continue;
      }
      rows.x0[kept] = rows.x0[j];
      rows.y0[kept] = rows.y0[j];
      rows.x1[kept] = rows.x1[j];
      rows.y1[kept] = rows.y1[j];
      rows.area[kept] = rows.area[j];
      rows.box[kept] = rows.box[j];
      rows.score[kept++] = score;
    }
    if (args.corners) mean.store(args.merged + 4 * taken);
    return kept;
  }
};

}  // namespace cornernet_d2
