#include "nibble/scaling/law.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "nibble/scaling/law_file.h"
#include "tests/scaling/quartet_runs.h"

namespace nibble {
namespace {

ScalingFit quartet() { return load_law(law_folder() / "quartet.toml"); }

TEST(Law, PredictsTheGoldenLossesOfQuartetsConstants) {
  const ScalingFit fit = quartet();
  const Efficiency fp4{.6418, .9435};
  EXPECT_NEAR(predict_loss(fit.law, k30M, 100 * k30M), 3.2081, 5e-5);
  EXPECT_NEAR(predict_loss(fit.law, k30M, 100 * k30M, fp4), 3.3024, 5e-5);
  EXPECT_NEAR(predict_loss(fit.law, k100M, 100 * k100M), 2.8859, 5e-5);
  EXPECT_NEAR(predict_loss(fit.law, k100M, 100 * k100M, fp4), 2.9625, 5e-5);
  EXPECT_NEAR(predict_loss(fit.law, k200M, 25 * k200M), 2.8778, 5e-5);
  EXPECT_NEAR(predict_loss(fit.law, k200M, 25 * k200M, fp4), 2.9348, 5e-5);
}

TEST(Law, TokensForLossInvertsPredictLoss) {
  const ScalingLaw law = quartet().law;
  std::mt19937 rng(5);
  std::uniform_real_distribution<double> exponent(0, 1);
  for (int i = 0; i < 100; ++i) {
    const double params = 1e7 * std::pow(1e4, exponent(rng));
    const double tokens = params * 10 * std::pow(100, exponent(rng));
    const Efficiency efficiency{0.3 + exponent(rng), 0.3 + exponent(rng)};
    SCOPED_TRACE(testing::Message() << "N " << params << " D " << tokens);
    const double loss = predict_loss(law, params, tokens, efficiency);
    EXPECT_NEAR(tokens_for_loss(law, params, loss, efficiency) / tokens, 1, 1e-9);
  }
}

TEST(Law, NoTokensBringAModelBelowItsOwnTerm) {
  const ScalingLaw law = quartet().law;
  const double limit = std::pow(law.A * std::pow(k30M, -law.alpha), law.gamma) + law.E;
  EXPECT_TRUE(std::isinf(tokens_for_loss(law, k30M, limit)));
  EXPECT_TRUE(std::isinf(tokens_for_loss(law, k30M, law.E)));
  EXPECT_TRUE(std::isfinite(tokens_for_loss(law, k30M, limit + 1e-6)));
}

TEST(Law, ARecipeWithoutLossesInTheForwardPassCostsItsEffDInTokens) {
  const Prediction p = predict(quartet().law, k100M, 50 * k100M, {1, 0.8});
  EXPECT_NEAR(p.token_factor, 1 / 0.8, 1e-9);
  EXPECT_NEAR(p.catch_up_factor, 1 / 0.8, 1e-9);
  EXPECT_GT(p.gap(), 0);
  EXPECT_NEAR(p.gap_percent(), 100 * p.gap() / p.baseline_loss, 1e-12);
}

TEST(Law, ALossInTheForwardPassCanBeBeyondAnyNumberOfTokens) {
  const Prediction p = predict(quartet().law, k30M, 800 * k30M, {0.6418, 0.9435});
  EXPECT_GT(p.token_factor, 5);
  EXPECT_TRUE(std::isinf(p.catch_up_factor));
}

}  // namespace
}  // namespace nibble
