// Which stage of a recipe holds at each step of a run, and when the learning rate was warmed up anew.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nibble/recipe/recipe.h"

namespace nibble {

/// Part of every checkpoint.
struct StageState {
  std::size_t stage = 0;
  std::int64_t began = 1;  ///< the first step of the stage
  /// By stage: how many measurements in a row lay below the stage's bound; 0 for stages that do not monitor.
  std::vector<std::int64_t> measured_below;
  std::int64_t rewarm_began = 0;  ///< the first step of the newest stage that warmed up anew; 0 = none yet
  std::int64_t rewarm_steps = 0;

  friend bool operator==(const StageState&, const StageState&) = default;
};

class StageClock {
 public:
  /// `recipe` must outlive the clock.
  StageClock(const Recipe& recipe, std::int64_t steps);

  /// To be called before each step, in ascending order; true when a later stage begins with it. The stage is the last
  /// one whose condition holds: step > floor(from * steps), and where it monitors, `patience` measurements in a row
  /// below its bound. A stage whose condition never held is passed over.
  bool begin_step(std::int64_t step);
  /// A measurement of rho. Counts for every stage that is still to come and monitors it.
  void measured(double gradient_to_noise);

  std::size_t stage() const { return state_.stage; }
  const StageState& state() const { return state_; }
  /// UserError when the state does not fit the recipe.
  void restore(const StageState& state);
  /// "stage 2 of 2 from step 1289: rho was below 1.732 in 3 measurements; the learning rate climbs again over 40 steps"
  std::string describe_change() const;

 private:
  bool holds(std::size_t stage, std::int64_t step) const;
  const Recipe& recipe_;
  std::int64_t steps_;
  StageState state_;
};

}  // namespace nibble
