#include "nibble/train/step_verdict.h"

#include <cmath>
#include <limits>

#include "nibble/dist/ordered_sum.h"

namespace nibble {

StepVerdict agree(Communicator& ranks, const StepVerdict& mine) {
  if (ranks.size() == 1) return mine;
  constexpr std::int64_t kFigures = 5;
  const double nothing = std::numeric_limits<double>::quiet_NaN();
  const double own[kFigures] = {mine.stop ? 1.0 : 0.0, mine.alarm ? 1.0 : 0.0, mine.gradient_to_noise.value_or(nothing),
                                mine.written ? 1.0 : 0.0, mine.own_seconds};
  const std::vector<double> all = gather_positions(ranks, own, kFigures * ranks.size());
  StepVerdict verdict;
  verdict.written = true;
  verdict.own_seconds = mine.own_seconds;
  for (std::size_t i = 0; i < all.size(); i += kFigures) {
    verdict.stop = verdict.stop || all[i] != 0;
    verdict.written = verdict.written && all[i + 3] != 0;
    verdict.rank_seconds.push_back(all[i + 4]);
  }
  verdict.alarm = all[1] != 0;
  if (!std::isnan(all[2])) verdict.gradient_to_noise = all[2];
  return verdict;
}

}  // namespace nibble
