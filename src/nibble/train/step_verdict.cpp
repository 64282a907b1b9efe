#include "nibble/train/step_verdict.h"

#include <cmath>
#include <limits>

#include "nibble/dist/gather.h"

namespace nibble {

StepVerdict agree(Communicator& ranks, const StepVerdict& mine) {
  if (ranks.size() == 1) return mine;
  struct Figures {
    bool stop, alarm, written;
    double gradient_to_noise;  // NaN: not measured
    double own_seconds;
  };
  const double nothing = std::numeric_limits<double>::quiet_NaN();
  const Figures own{mine.stop, mine.alarm, mine.written, mine.gradient_to_noise.value_or(nothing), mine.own_seconds};
  const std::vector<Figures> all = gather_value(ranks, own);
  StepVerdict verdict;
  verdict.written = true;
  verdict.own_seconds = mine.own_seconds;
  for (const Figures& rank : all) {
    verdict.stop = verdict.stop || rank.stop;
    verdict.written = verdict.written && rank.written;
    verdict.rank_seconds.push_back(rank.own_seconds);
  }
  verdict.alarm = all.front().alarm;
  if (!std::isnan(all.front().gradient_to_noise)) verdict.gradient_to_noise = all.front().gradient_to_noise;
  return verdict;
}

}  // namespace nibble
