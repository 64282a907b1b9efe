#include "nibble/optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

// AdamW of one parameter in double, written as in the paper.
struct Oracle {
  double p, m = 0, v = 0;
  void step(double g, const AdamWStep& s) {
    g *= static_cast<double>(s.grad_scale);
    m = s.beta1 * m + (1.0 - s.beta1) * g;
    v = s.beta2 * v + (1.0 - s.beta2) * g * g;
    const double m_hat = m / (1 - std::pow(s.beta1, s.t));
    const double v_hat = v / (1 - std::pow(s.beta2, s.t));
    p -= static_cast<double>(s.lr) * s.weight_decay * p;
    p -= s.lr * m_hat / (std::sqrt(v_hat) + s.eps);
  }
};

struct State {
  explicit State(std::int64_t n)
      : param(random_tensor(DType::F32, {n}, 51, 0.05f)), m(DType::F32, {n}), v(DType::F32, {n}) {}
  OwnedTensor param, m, v;
};

TEST(AdamW, FollowsTheDoubleOracleOverManySteps) {
  for (std::int64_t n : {1, 7, 16, 1000, 33001}) {
    SCOPED_TRACE(fmt::format("{} parameters, gradients of seeds 100..139", n));
    const State state(n);
    std::vector<Oracle> oracle;
    for (double p : doubles(state.param)) oracle.push_back({p});
    AdamWStep step{.lr = 2e-3f, .weight_decay = 0.3f, .grad_scale = 0.25f};
    for (step.t = 1; step.t <= 40; ++step.t) {
      step.lr *= 0.98f;
      const OwnedTensor grad = random_tensor(DType::F32, {n}, 99 + static_cast<std::uint32_t>(step.t), 1e-3f);
      adamw_step(state.param, grad, state.m, state.v, step);
      for (std::int64_t i = 0; i < n; ++i) {
        oracle[static_cast<std::size_t>(i)].step(static_cast<double>(grad.view().data<float>()[i]), step);
      }
    }
    for (std::int64_t i = 0; i < n; ++i) {
      const Oracle& want = oracle[static_cast<std::size_t>(i)];
      ASSERT_NEAR(state.param.view().data<float>()[i], want.p, 1e-6) << i;  // moved by about 0.05
      ASSERT_NEAR(state.m.view().data<float>()[i], want.m, 1e-9) << i;      // of size 1e-4
      ASSERT_NEAR(state.v.view().data<float>()[i], want.v, 1e-5 * want.v) << i;
    }
  }
}

TEST(AdamW, TheFirstStepMovesEveryParameterByTheLearningRateAgainstTheGradient) {
  const OwnedTensor param(DType::F32, {100});
  const OwnedTensor grad = random_tensor(DType::F32, {100}, 52);
  const OwnedTensor m(DType::F32, {100});
  const OwnedTensor v(DType::F32, {100});
  adamw_step(param, grad, m, v, {.lr = 0.01f});
  for (std::int64_t i = 0; i < 100; ++i) {
    const float g = grad.view().data<float>()[i];
    EXPECT_NEAR(param.view().data<float>()[i], g > 0 ? -0.01 : 0.01, 1e-6) << "gradient " << g;
  }
}

TEST(AdamW, WithoutAGradientOnlyTheDecayActs) {
  const State state(50);
  const std::vector<double> before = doubles(state.param);
  adamw_step(state.param, OwnedTensor(DType::F32, {50}), state.m, state.v, {.lr = 0.5f, .weight_decay = 0.2f});
  for (std::size_t i = 0; i < 50; ++i) {
    EXPECT_NEAR(state.param.view().data<float>()[i], 0.9 * before[i], 1e-8);
  }
}

TEST(AdamW, TheBitsDoNotDependOnTheNumberOfThreads) {
  const OwnedTensor grad = random_tensor(DType::F32, {50001}, 53);
  const auto run = [&](int threads) {
    const ThreadCount scope(threads);
    const State state(50001);
    for (std::int64_t t = 1; t <= 3; ++t) adamw_step(state.param, grad, state.m, state.v, {.lr = 0.01f, .t = t});
    return std::vector{bytes_of(state.param), bytes_of(state.m), bytes_of(state.v)};
  };
  const auto one = run(1);
  for (int threads : {2, 3, 7}) EXPECT_EQ(run(threads), one) << threads << " threads";
}

TEST(AdamW, AStepZeroAndAWrongShapeAreRefused) {
  const State state(4);
  const OwnedTensor grad(DType::F32, {4});
  const OwnedTensor short_grad(DType::F32, {3});
  EXPECT_THROW(adamw_step(state.param, grad, state.m, state.v, {.lr = 0.1f, .t = 0}), InternalError);
  EXPECT_THROW(adamw_step(state.param, short_grad, state.m, state.v, {.lr = 0.1f}), InternalError);
  const State none(0);
  adamw_step(none.param, OwnedTensor(DType::F32, {0}), none.m, none.v, {.lr = 0.1f});
}

}  // namespace
}  // namespace nibble
