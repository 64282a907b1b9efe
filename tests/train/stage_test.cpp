#include "nibble/train/stage.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/temporary_directory.h"

namespace nibble {
namespace {

/// Stages after the first, of layers that are all alike.
Recipe recipe_of(std::vector<Stage> later) {
  Recipe recipe = unquantised_recipe(ElementFormat::BF16);
  for (Stage& stage : later) {
    stage.linear = recipe.stages[0].linear;
    recipe.stages.push_back(std::move(stage));
  }
  return recipe;
}

Stage beginning(double from, std::int64_t rewarm_steps = 0) {
  Stage stage;
  stage.from = from;
  stage.rewarm_steps = rewarm_steps;
  return stage;
}

Stage watching(double from, double below, std::int64_t patience) {
  Stage stage = beginning(from);
  stage.monitor = Stage::Monitor::GradientToNoise;
  stage.below = below;
  stage.patience = patience;
  return stage;
}

/// The stages of steps 1 to `steps`; rho[i] is measured after step i + 1.
std::vector<std::size_t> stages_of(const Recipe& recipe, std::int64_t steps, const std::vector<double>& rho = {}) {
  StageClock clock(recipe, steps);
  std::vector<std::size_t> stages;
  for (std::int64_t step = 1; step <= steps; ++step) {
    clock.begin_step(step);
    stages.push_back(clock.stage());
    if (step <= std::ssize(rho)) clock.measured(rho[static_cast<std::size_t>(step - 1)]);
  }
  return stages;
}

using Stages = std::vector<std::size_t>;

TEST(StageClock, BeginsAStageAfterItsFractionOfTheSteps) {
  EXPECT_EQ(stages_of(recipe_of({beginning(0.5)}), 4), (Stages{0, 0, 1, 1}));
  EXPECT_EQ(stages_of(recipe_of({beginning(0.5)}), 5), (Stages{0, 0, 1, 1, 1}));
  EXPECT_EQ(stages_of(recipe_of({beginning(0.82)}), 10), (Stages{0, 0, 0, 0, 0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(stages_of(recipe_of({beginning(0.25), beginning(0.75)}), 4), (Stages{0, 1, 1, 2}));
  EXPECT_EQ(stages_of(recipe_of({}), 3), (Stages{0, 0, 0}));
}

TEST(StageClock, WaitsForMeasurementsInARow) {
  const Recipe recipe = recipe_of({watching(0, 2, 2)});
  EXPECT_EQ(stages_of(recipe, 6, {1, 3, 1, 1, 5, 5}), (Stages{0, 0, 0, 0, 1, 1})) << "and never goes back";
  EXPECT_EQ(stages_of(recipe, 4, {1, 2, 1, 2}), (Stages{0, 0, 0, 0})) << "the bound itself is not below it";
  EXPECT_EQ(stages_of(recipe, 3, {1, std::numeric_limits<double>::infinity(), 1}), (Stages{0, 0, 0}));
}

TEST(StageClock, BeginsNoMonitoredStageBeforeItsFraction) {
  EXPECT_EQ(stages_of(recipe_of({watching(0.5, 2, 1)}), 6, {1, 1, 1, 1, 1, 1}), (Stages{0, 0, 0, 1, 1, 1}));
}

TEST(StageClock, PassesOverAStageWhoseConditionNeverHeld) {
  EXPECT_EQ(stages_of(recipe_of({watching(0, 2, 1), beginning(0.5)}), 4, {9, 9, 9, 9}), (Stages{0, 0, 2, 2}));
}

TEST(StageClock, GoesOnFromARestoredState) {
  const Recipe recipe = recipe_of({watching(0.2, 2, 3), beginning(0.9, 2)});
  const std::vector<double> rho = {1, 1, 5, 1, 1, 1, 1, 1, 1, 1};
  const Stages whole = stages_of(recipe, 10, rho);
  EXPECT_EQ(whole, (Stages{0, 0, 0, 0, 0, 0, 1, 1, 1, 2}));
  for (std::int64_t stop = 1; stop < 10; ++stop) {
    StageClock before(recipe, 10);
    StageClock after(recipe, 10);
    Stages stages;
    for (std::int64_t step = 1; step <= 10; ++step) {
      if (step == stop + 1) after.restore(before.state());
      StageClock& clock = step <= stop ? before : after;
      clock.begin_step(step);
      stages.push_back(clock.stage());
      clock.measured(rho[static_cast<std::size_t>(step - 1)]);
    }
    EXPECT_EQ(stages, whole) << "stopped after step " << stop;
  }
}

TEST(StageClock, RemembersWhenTheLearningRateWasWarmedUpAnew) {
  const Recipe recipe = recipe_of({beginning(0.5, 2), beginning(0.75)});
  StageClock clock(recipe, 8);
  for (std::int64_t step = 1; step <= 4; ++step) clock.begin_step(step);
  EXPECT_EQ(clock.state().rewarm_began, 0);
  EXPECT_TRUE(clock.begin_step(5));
  EXPECT_EQ(clock.state().rewarm_began, 5);
  clock.begin_step(6);
  EXPECT_TRUE(clock.begin_step(7));
  EXPECT_EQ(clock.state().began, 7);
  EXPECT_EQ(clock.state().rewarm_began, 5) << "a stage without a warm-up leaves the schedule as it is";
  EXPECT_EQ(clock.state().rewarm_steps, 2);
}

TEST(StageClock, SaysWhyTheStageChanged) {
  const Recipe recipe = recipe_of({watching(0, 1.75, 2), beginning(0.5, 40)});
  StageClock clock(recipe, 100);
  clock.measured(1);
  clock.measured(1);
  ASSERT_TRUE(clock.begin_step(7));
  EXPECT_EQ(clock.describe_change(),
            "stage 2 of 3 from step 7: gradient over quantisation noise was below 1.75 in 2 measurements in a row");
  ASSERT_TRUE(clock.begin_step(51));
  EXPECT_EQ(clock.describe_change(),
            "stage 3 of 3 from step 51: 50 % of the run are done; the learning rate climbs again over 40 steps");
}

TEST(StageClock, RefusesTheStateOfAnotherRecipe) {
  const Recipe recipe = recipe_of({});
  StageClock clock(recipe, 10);
  EXPECT_USER_ERROR(clock.restore({.stage = 1, .measured_below = {0, 0}}), "start the run in another folder");
}

}  // namespace
}  // namespace nibble
