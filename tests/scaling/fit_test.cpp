// The fit against what is published about it: Castro et al. 2025 fitted the 23 bf16 runs of laws/quartet-losses.csv,
// and later 24 with laws/quartet-losses-later.csv; laws/quartet.toml and laws/quartet-refit.toml hold what they found.
#include "nibble/scaling/fit.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <ostream>
#include <random>

#include "nibble/scaling/law_file.h"
#include "tests/scaling/quartet_runs.h"

namespace nibble {
namespace {

struct Published {
  bool later;
  const char* file;
};
std::ostream& operator<<(std::ostream& out, const Published& published) { return out << published.file; }

class PublishedFit : public testing::TestWithParam<Published> {
 protected:
  std::vector<LossPoint> points_ = quartet_runs(GetParam().later);
  std::vector<LossPoint> bf16_ = points_of(points_, "bf16");
  ScalingFit published_ = load_law(law_folder() / GetParam().file);
  ScalingLaw law_ = fit_law(bf16_);
};
INSTANTIATE_TEST_SUITE_P(Quartet, PublishedFit,
                         testing::Values(Published{false, "quartet.toml"}, Published{true, "quartet-refit.toml"}),
                         [](const auto& info) { return info.param.later ? "Refit" : "Paper"; });

TEST_P(PublishedFit, HasItsObjectiveOnTheSameRuns) {
  ASSERT_EQ(static_cast<std::int64_t>(bf16_.size()), published_.points);
  const double theirs = huber_objective(bf16_, published_.law);
  EXPECT_NEAR(theirs / published_.objective, 1, 1e-9) << "the runs or the objective differ from the published ones";
  EXPECT_LE(huber_objective(bf16_, law_), theirs * (1 + 1e-9));
}

TEST_P(PublishedFit, IsRecoveredConstantByConstant) {
  const auto ours = law_constants(law_);
  const auto theirs = law_constants(published_.law);
  for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_NEAR(ours[i] / theirs[i], 1, 2e-6) << kLawConstantNames[i];
}

TEST_P(PublishedFit, PredictsTheSameLosses) {
  for (const LossPoint& p : points_) {
    const double theirs = predict_loss(published_.law, p.params, p.tokens);
    EXPECT_NEAR(predict_loss(law_, p.params, p.tokens), theirs, 1e-6);
    if (p.recipe == "bf16") {
      EXPECT_NEAR(std::log(theirs / p.loss), 0, 0.005);
    }
  }
}

TEST_P(PublishedFit, EfficienciesOfSinglePassesAreRecovered) {
  for (const RecipeFit& theirs : published_.recipes) {
    if (theirs.passes == Passes::Both || theirs.points == 1) continue;
    SCOPED_TRACE(theirs.recipe);
    const std::vector<LossPoint> runs = points_of(points_, theirs.recipe);
    ASSERT_EQ(static_cast<std::int64_t>(runs.size()), theirs.points);
    const Efficiency ours = fit_efficiency(runs, published_.law, theirs.passes);
    EXPECT_NEAR(ours.n, theirs.efficiency.n, 1e-5);
    EXPECT_NEAR(ours.d, theirs.efficiency.d, 1e-5);
  }
}

TEST_P(PublishedFit, EfficienciesFromOneRunAreRecovered) {
  for (const RecipeFit& theirs : published_.recipes) {
    if (theirs.points != 1) continue;
    SCOPED_TRACE(theirs.recipe);
    const double ratio = theirs.recipe == "quest-backward" ? 100 : 800;
    std::vector<LossPoint> run;
    for (const LossPoint& p : points_of(points_, theirs.recipe)) {
      if (p.params == k30M && std::abs(p.tokens / 30e6 / ratio - 1) < 0.01) run.push_back(p);
    }
    ASSERT_EQ(run.size(), 1u);
    EXPECT_NEAR(fit_efficiency(run, published_.law, theirs.passes).d, theirs.efficiency.d, 5e-5);
  }
}

std::vector<LossPoint> quartet_subset(const std::vector<LossPoint>& points) {
  std::vector<LossPoint> runs;
  for (const LossPoint& p : points_of(points, "quartet")) {
    const double ratio = p.tokens / p.params;
    if ((p.params == k30M && ratio < 500) || (p.params == k50M && ratio < 150)) runs.push_back(p);
  }
  return runs;
}

TEST(Fit, QuartetsEfficienciesAreThePapersOnThePapersRuns) {
  const ScalingFit published = load_law(law_folder() / "quartet.toml");
  const std::vector<LossPoint> runs = quartet_subset(quartet_runs());
  ASSERT_EQ(static_cast<std::int64_t>(runs.size()), published.recipe("quartet").points);
  const Efficiency ours = fit_efficiency(runs, published.law, Passes::Both);
  EXPECT_NEAR(ours.n, 0.6418337, 1e-5);
  EXPECT_NEAR(ours.d, 0.9434596, 1e-5);
}

TEST(Fit, QuartetsEfficienciesAreTheRefitsOnAllRuns) {
  const ScalingFit published = load_law(law_folder() / "quartet-refit.toml");
  const std::vector<LossPoint> runs = points_of(quartet_runs(), "quartet");
  ASSERT_EQ(static_cast<std::int64_t>(runs.size()), published.recipe("quartet").points);
  const Efficiency ours = fit_efficiency(runs, published.law, Passes::Both);
  EXPECT_NEAR(ours.n, published.recipe("quartet").efficiency.n, 1e-4);
  EXPECT_NEAR(ours.d, published.recipe("quartet").efficiency.d, 1e-4);
}

// The minima of the recipes that fail are flat or several; ours may be another point, never a worse one.
TEST_P(PublishedFit, NoPublishedEfficiencyIsBetterThanOurs) {
  for (const RecipeFit& theirs : published_.recipes) {
    if (theirs.points == 1) continue;
    SCOPED_TRACE(theirs.recipe);
    const std::vector<LossPoint> runs = points_of(points_, theirs.recipe);
    const Efficiency ours = fit_efficiency(runs, published_.law, theirs.passes);
    EXPECT_LE(huber_objective(runs, published_.law, ours),
              huber_objective(runs, published_.law, theirs.efficiency) * (1 + 1e-6));
  }
}

ScalingLaw random_law(std::mt19937& rng) {
  std::uniform_real_distribution<double> u(0, 1);
  ScalingLaw law;
  law.gamma = 0.2 + 0.8 * u(rng);
  law.alpha = (0.12 + 0.2 * u(rng)) / law.gamma;
  law.beta = (0.12 + 0.2 * u(rng)) / law.gamma;
  law.E = 1 + u(rng);
  // Both terms are of the same size at 200 M parameters and 10 G tokens, and make up 1 to 2 nats there.
  const double term = std::pow(1 + u(rng), 1 / law.gamma) / 2;
  law.A = term * std::pow(2e8, law.alpha) * (0.7 + 0.6 * u(rng));
  law.B = term * std::pow(1e10, law.beta) * (0.7 + 0.6 * u(rng));
  return law;
}

std::vector<LossPoint> losses_of(const ScalingLaw& law, const Efficiency& efficiency, const std::string& recipe) {
  std::vector<LossPoint> points;
  for (const double params : {2e7, 6e7, 2e8, 6e8, 2e9}) {
    for (const double ratio : {10, 30, 100, 300, 1000}) {
      points.push_back({recipe, params, ratio * params, predict_loss(law, params, ratio * params, efficiency)});
    }
  }
  return points;
}

TEST(Fit, ExactLossesGiveTheirConstantsBack) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 rng(seed);
    const ScalingLaw law = random_law(rng);
    const auto expected = law_constants(law);
    const auto found = law_constants(fit_law(losses_of(law, {}, "bf16")));
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i] / expected[i], 1, 1e-3) << kLawConstantNames[i];
  }
}

TEST(Fit, ExactLossesWithWildOutliersGiveTheirConstantsBack) {
  std::mt19937 rng(3);
  const ScalingLaw law = random_law(rng);
  std::vector<LossPoint> points = losses_of(law, {}, "bf16");
  points[3].loss *= 1.3;
  points[14].loss *= 1.1;
  points[20].loss *= 0.9;
  const auto expected = law_constants(law);
  const auto found = law_constants(fit_law(points));
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i] / expected[i], 1, 0.02) << kLawConstantNames[i];
}

TEST(Fit, ExactLossesGiveTheirEfficienciesBack) {
  std::mt19937 rng(4);
  std::uniform_real_distribution<double> u(0, 1);
  for (int i = 0; i < 20; ++i) {
    SCOPED_TRACE(i);
    const ScalingLaw law = random_law(rng);
    const Efficiency both{0.1 + u(rng), 0.1 + u(rng)};
    const Efficiency found = fit_efficiency(losses_of(law, both, "r"), law, Passes::Both);
    EXPECT_NEAR(found.n / both.n, 1, 1e-6);
    EXPECT_NEAR(found.d / both.d, 1, 1e-6);
    EXPECT_NEAR(fit_efficiency(losses_of(law, {both.n, 1}, "r"), law, Passes::ForwardOnly).n / both.n, 1, 1e-6);
    EXPECT_NEAR(fit_efficiency(losses_of(law, {1, both.d}, "r"), law, Passes::BackwardOnly).d / both.d, 1, 1e-6);
  }
}

// L = (A / N^alpha + B / D^beta)^gamma: nothing keeps E from 0.
TEST(Fit, LossesWithoutALimitGiveALawThatCanBeWrittenAndRead) {
  std::mt19937 rng(6);
  ScalingLaw law = random_law(rng);
  law.E = 0;
  ScalingFit fit;
  fit.law = fit_law(losses_of(law, {}, "bf16"));
  EXPECT_LT(fit.law.E, 1e-3);
  const ScalingFit back = parse_law(law_to_toml(fit), "x.toml");
  EXPECT_NEAR(predict_loss(back.law, 3e8, 2e10) / predict_loss(law, 3e8, 2e10), 1, 1e-4);
}

TEST(Fit, LossesOfPureNoiseGiveFiniteConstants) {
  for (unsigned seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 rng(seed);
    std::uniform_real_distribution<double> u(1, 9);
    std::vector<LossPoint> points = losses_of(random_law(rng), {}, "bf16");
    for (LossPoint& p : points) p.loss = u(rng);
    ScalingFit fit;
    fit.law = fit_law(points);
    for (const double constant : law_constants(fit.law)) EXPECT_TRUE(std::isfinite(constant));
    EXPECT_NO_THROW((void)parse_law(law_to_toml(fit), "x.toml"));
    EXPECT_TRUE(std::isfinite(huber_objective(points, fit.law)));
  }
}

FitOptions quick(std::int64_t bootstrap = 0) {
  FitOptions options;
  options.bootstrap = bootstrap;
  return options;
}

std::vector<LossPoint> small_set() {
  std::vector<LossPoint> points;
  for (const LossPoint& p : quartet_runs()) {
    if (p.recipe == "bf16" || p.recipe == "quartet") points.push_back(p);
  }
  return points;
}

TEST(Fit, BootstrapIsTheSameOnOneAndTwoThreads) {
  const std::vector<LossPoint> points = small_set();
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const std::string one = law_to_toml(fit_scaling(points, quick(40)));
  omp_set_num_threads(2);
  const std::string two = law_to_toml(fit_scaling(points, quick(40)));
  omp_set_num_threads(threads);
  EXPECT_EQ(one, two);
  FitOptions other = quick(40);
  other.seed = 2;
  EXPECT_NE(one, law_to_toml(fit_scaling(points, other)));
}

TEST(Fit, BootstrapIntervalsHoldTheEstimate) {
  const ScalingFit fit = fit_scaling(small_set(), quick(60));
  const auto constants = law_constants(fit.law);
  for (std::size_t i = 0; i < constants.size(); ++i) {
    EXPECT_LT(fit.intervals[i].low, constants[i]) << kLawConstantNames[i];
    EXPECT_GT(fit.intervals[i].high, constants[i]) << kLawConstantNames[i];
  }
  const RecipeFit& quartet = fit.recipe("quartet");
  EXPECT_LT(quartet.n.low, quartet.efficiency.n);
  EXPECT_GT(quartet.n.high, quartet.efficiency.n);
  EXPECT_LT(quartet.n.high - quartet.n.low, 0.2);
  EXPECT_EQ(fit.points, 23);
  EXPECT_EQ(quartet.points, 21);
  EXPECT_EQ(fit.params.low, k30M);
}

// Losses with independent errors of a known size, many times over: the intervals hold the truth about as often as they
// say.
TEST(Fit, BootstrapIntervalsOfEfficienciesHoldTheTruthAboutAsOftenAsTheySay) {
  const ScalingFit published = load_law(law_folder() / "quartet.toml");
  constexpr int kTrials = 100;
  int n_inside = 0;
  int d_inside = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::mt19937 rng(static_cast<unsigned>(trial));
    std::normal_distribution<double> error(0, 0.002);
    std::vector<LossPoint> points = losses_of(published.law, {0.65, 0.9}, "r");
    for (LossPoint& p : points) p.loss *= std::exp(error(rng));
    FitOptions options = quick(60);
    options.law = published;
    const RecipeFit fit = fit_scaling(points, options).recipe("r");
    n_inside += fit.n.low <= 0.65 && 0.65 <= fit.n.high;
    d_inside += fit.d.low <= 0.9 && 0.9 <= fit.d.high;
  }
  EXPECT_GE(n_inside, 80);
  EXPECT_GE(d_inside, 80);
  EXPECT_LE(n_inside + d_inside, 199);
}

TEST(Fit, WithoutBootstrapThereAreNoIntervals) {
  const ScalingFit fit = fit_scaling(small_set(), quick());
  EXPECT_FALSE(fit.intervals[0].known());
  EXPECT_FALSE(fit.recipe("quartet").n.known());
}

TEST(Fit, AsManyPointsAsUnknownsHaveNoInterval) {
  FitOptions options = quick(20);
  options.law = load_law(law_folder() / "quartet.toml");
  std::vector<LossPoint> points = points_of(small_set(), "quartet");
  points.resize(3);
  EXPECT_TRUE(fit_scaling(points, options).recipe("quartet").n.known());
  points.resize(2);
  EXPECT_FALSE(fit_scaling(points, options).recipe("quartet").n.known());
}

TEST(Fit, AFixedLawIsKeptAndNeedsNoBaselineRuns) {
  FitOptions options = quick(20);
  options.law = load_law(law_folder() / "quartet.toml");
  const ScalingFit fit = fit_scaling(quartet_subset(quartet_runs()), options);
  EXPECT_EQ(law_constants(fit.law), law_constants(options.law->law));
  ASSERT_EQ(fit.recipes.size(), 1u);
  EXPECT_NEAR(fit.recipe("quartet").efficiency.n, 0.6418337, 1e-5);
  EXPECT_TRUE(fit.recipe("quartet").n.known());
}

TEST(Fit, ARecipeOfOnePassKeepsTheOtherEfficiencyAtOne) {
  std::vector<LossPoint> points;
  for (const LossPoint& p : quartet_runs()) {
    if (p.recipe == "bf16" || p.recipe == "quest-forward" || p.recipe == "sr-backward") points.push_back(p);
  }
  FitOptions options = quick(10);
  options.forward_only = {"quest-forward"};
  options.backward_only = {"sr-backward"};
  const ScalingFit fit = fit_scaling(points, options);
  EXPECT_NEAR(fit.recipe("quest-forward").efficiency.n, 0.6478, 1e-4);
  EXPECT_EQ(fit.recipe("quest-forward").efficiency.d, 1);
  EXPECT_FALSE(fit.recipe("quest-forward").d.known());
  EXPECT_NEAR(fit.recipe("sr-backward").efficiency.d, 0.8918, 1e-4);
  EXPECT_EQ(fit.recipe("sr-backward").efficiency.n, 1);
}

TEST(Fit, RefusesWhatCannotDetermineTheLaw) {
  std::vector<LossPoint> points = small_set();
  std::vector<LossPoint> few(points.begin(), points.begin() + 7);
  EXPECT_USER_ERROR(fit_scaling(few, quick()), "7 different (N, D)");
  EXPECT_USER_ERROR(fit_scaling(few, quick()), "--law");
  std::vector<LossPoint> two_sizes(points.begin(), points.begin() + 12);
  EXPECT_USER_ERROR(fit_scaling(two_sizes, quick()), "2 different N");
  std::vector<LossPoint> repeated;
  for (int i = 0; i < 4; ++i) repeated.insert(repeated.end(), few.begin(), few.begin() + 5);
  EXPECT_USER_ERROR(fit_scaling(repeated, quick()), "5 different (N, D)");
  EXPECT_USER_ERROR(fit_scaling({}, quick()), "no losses");
}

TEST(Fit, RefusesUnknownRecipes) {
  FitOptions options = quick();
  options.baseline = "bf61";
  EXPECT_USER_ERROR(fit_scaling(small_set(), options), "did you mean 'bf16'");
  options = quick();
  options.forward_only = {"quartett"};
  EXPECT_USER_ERROR(fit_scaling(small_set(), options), "did you mean 'quartet'");
  options.forward_only = options.backward_only = {"quartet"};
  EXPECT_USER_ERROR(fit_scaling(small_set(), options), "both forward-only and backward-only");
  options = quick();
  options.law = load_law(law_folder() / "quartet.toml");
  options.baseline = "bf61";
  EXPECT_USER_ERROR(fit_scaling(small_set(), options), "did you mean 'bf16'");
  EXPECT_USER_ERROR((void)fit_scaling(small_set(), quick()).recipe("quartte"), "did you mean 'quartet'");
}

TEST(Fit, RefusesARecipeWithOnePointForTwoEfficiencies) {
  std::vector<LossPoint> points = small_set();
  points.resize(24);
  EXPECT_USER_ERROR(fit_scaling(points, quick()), "'quartet'");
  FitOptions options = quick(5);
  options.forward_only = {"quartet"};
  EXPECT_GT(fit_scaling(points, options).recipe("quartet").efficiency.n, 0.5);
}

}  // namespace
}  // namespace nibble
