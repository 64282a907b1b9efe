#include "nibble/train/stage.h"

#include <cmath>

#include "nibble/tensor/error.h"

namespace nibble {

StageClock::StageClock(const Recipe& recipe, std::int64_t steps) : recipe_(recipe), steps_(steps) {
  state_.measured_below.assign(recipe.stages.size(), 0);
}

bool StageClock::holds(std::size_t stage, std::int64_t step) const {
  const Stage& s = recipe_.stages[stage];
  if (step <= static_cast<std::int64_t>(std::floor(s.from * static_cast<double>(steps_)))) return false;
  return s.monitor == Stage::Monitor::None || state_.measured_below[stage] >= s.patience;
}

bool StageClock::begin_step(std::int64_t step) {
  std::size_t next = recipe_.stages.size() - 1;
  while (next > state_.stage && !holds(next, step)) --next;
  if (next == state_.stage) return false;
  state_.stage = next;
  state_.began = step;
  if (recipe_.stages[next].rewarm_steps > 0) {
    state_.rewarm_began = step;
    state_.rewarm_steps = recipe_.stages[next].rewarm_steps;
  }
  return true;
}

void StageClock::measured(double gradient_to_noise) {
  for (std::size_t i = state_.stage + 1; i < recipe_.stages.size(); ++i) {
    const Stage& s = recipe_.stages[i];
    if (s.monitor != Stage::Monitor::GradientToNoise) continue;
    state_.measured_below[i] = gradient_to_noise < s.below ? state_.measured_below[i] + 1 : 0;
  }
}

void StageClock::restore(const StageState& state) {
  if (state.stage >= recipe_.stages.size() || state.measured_below.size() != recipe_.stages.size()) {
    user_error("the checkpoint is in stage {}, the recipe '{}' has {}: start the run in another folder",
               state.stage + 1, recipe_.name, recipe_.stages.size());
  }
  state_ = state;
}

std::string StageClock::describe_change() const {
  const Stage& s = recipe_.stages[state_.stage];
  std::string text =
      fmt::format("stage {} of {} from step {}: ", state_.stage + 1, recipe_.stages.size(), state_.began);
  if (s.monitor == Stage::Monitor::None) {
    text += fmt::format("{:.4g} % of the run are done", 100 * s.from);
  } else {
    text += fmt::format("gradient over quantisation noise was below {:.4g} in {} {}", s.below, s.patience,
                        s.patience == 1 ? "measurement" : "measurements in a row");
  }
  if (s.rewarm_steps > 0) text += fmt::format("; the learning rate climbs again over {} steps", s.rewarm_steps);
  return text;
}

}  // namespace nibble
