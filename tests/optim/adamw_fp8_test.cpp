#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nibble/numerics/fp16.h"
#include "nibble/numerics/fp8.h"
#include "nibble/optim/adamw.h"
#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct OwnedScaled {
  OwnedScaled(DType dtype, std::int64_t n) : data(dtype, {n}), scale_inv(DType::F32, {1}) {}
  operator ScaledTensor() const { return {data, scale_inv}; }
  float inv() const { return *scale_inv.view().data<float>(); }
  std::vector<double> values() const {
    const OwnedTensor x(DType::F32, {data.view().numel()});
    scaled_load(*this, x);
    return doubles(x);
  }
  OwnedTensor data, scale_inv;
};

OwnedTensor tensor_of(std::initializer_list<float> values) {
  OwnedTensor x(DType::F32, {static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), x.view().data<float>());
  return x;
}

float sf_for(DType dtype, float amax) {
  const OwnedScaled to(dtype, 3);
  scaled_store(tensor_of({amax / 3, -amax, 0}), to);
  return 1.0f / to.inv();
}

TEST(ScaledTensor, TheScaleIsTheLargestPowerOfTwoThatDoesNotOverflow) {
  EXPECT_EQ(sf_for(DType::U8, 448.0f), 1.0f);
  EXPECT_EQ(sf_for(DType::U8, std::nextafter(448.0f, kInf)), 0.5f);
  EXPECT_EQ(sf_for(DType::U8, 224.0f), 2.0f);
  EXPECT_EQ(sf_for(DType::U8, 225.0f), 1.0f);
  EXPECT_EQ(sf_for(DType::U8, 1.0f), 256.0f);
  EXPECT_EQ(sf_for(DType::U8, 3e38f), 0x1p-120f);
  EXPECT_EQ(sf_for(DType::F16, 65504.0f), 1.0f);
  EXPECT_EQ(sf_for(DType::F16, std::nextafter(65504.0f, kInf)), 0.5f);
  EXPECT_EQ(sf_for(DType::F16, std::nextafter(32752.0f, 0.0f)), 2.0f);
  EXPECT_EQ(sf_for(DType::F16, 1.0f), 32768.0f);
  EXPECT_EQ(sf_for(DType::F16, 1e-6f), 0x1p35f);
}

TEST(ScaledTensor, AScaleOutOfRangeIsHeldWhereBothItAndItsInverseAreNormal) {
  const OwnedScaled to(DType::F16, 2);
  scaled_store(tensor_of({1e-40f, -1e-41f}), to);
  EXPECT_EQ(to.inv(), 0x1p-126f);
  for (double v : to.values()) EXPECT_TRUE(std::isfinite(v));
  EXPECT_NEAR(to.values()[0], 1e-40, 1e-43);
}

TEST(ScaledTensor, ZerosAndNonFiniteMaximaKeepThePreviousScale) {
  for (DType dtype : {DType::U8, DType::F16}) {
    const OwnedScaled to(dtype, 2);
    scaled_store(tensor_of({0, 0}), to);
    EXPECT_EQ(to.inv(), 1.0f) << "zero-filled memory has no previous scale";
    scaled_store(tensor_of({3, 5}), to);
    const float inv = to.inv();
    EXPECT_LT(inv, 1.0f);
    for (float bad : {0.0f, kInf, -kInf, kNaN}) {
      scaled_store(tensor_of({bad, 0}), to);
      EXPECT_EQ(to.inv(), inv) << bad;
    }
    scaled_store(tensor_of({kNaN, 5}), to);
    EXPECT_EQ(to.inv(), inv) << "a NaN beside finite values";
    EXPECT_TRUE(std::isnan(to.values()[0]));
    EXPECT_NEAR(to.values()[1], 5, 0.2);
  }
}

TEST(ScaledTensor, StoresTheRoundedScaledValues) {
  for (std::int64_t n : {1, 15, 33, 70001}) {
    const OwnedTensor x = random_tensor(DType::F32, {n}, 61, 1e-3f);
    const OwnedScaled e4m3(DType::U8, n);
    const OwnedScaled fp16(DType::F16, n);
    scaled_store(x, e4m3);
    scaled_store(x, fp16);
    const std::vector<double> from_e4m3 = e4m3.values();
    for (std::int64_t i = 0; i < n; ++i) {
      const float v = x.view().data<float>()[i];
      const std::uint8_t code = e4m3.data.view().data<std::uint8_t>()[i];
      ASSERT_EQ(code, e4m3_encode(v / e4m3.inv())) << i;
      ASSERT_EQ(fp16.data.view().data<std::uint16_t>()[i], fp16_encode(v / fp16.inv())) << i;
      ASSERT_EQ(from_e4m3[static_cast<std::size_t>(i)], e4m3_decode(code) * e4m3.inv()) << i;
    }
  }
}

TEST(ScaledTensor, ADtypeWithoutARuleIsRefused) {
  const OwnedScaled to(DType::BF16, 2);
  EXPECT_THROW(scaled_store(tensor_of({1, 2}), to), InternalError);
  const OwnedScaled three(DType::U8, 3);
  EXPECT_THROW(scaled_store(tensor_of({1, 2}), three), InternalError);
}

struct State {
  explicit State(std::int64_t n, float amplitude = 0.05f)
      : param(random_tensor(DType::F32, {n}, 62, amplitude)), master(DType::F16, n), m(DType::U8, n), v(DType::F16, n) {
    scaled_store(param, master);
  }
  void step(const Tensor& grad, const AdamWStep& s) {
    Arena scratch;
    adamw_fp8_step(param, grad, master, m, v, s, scratch);
  }
  OwnedTensor param;
  OwnedScaled master, m, v;
};

TEST(AdamWFp8, AParameterTakesFiveBytes) {
  const State state(1000);
  EXPECT_EQ(state.master.data.view().bytes() + state.m.data.view().bytes() + state.v.data.view().bytes(), 5000);
}

TEST(AdamWFp8, EachStepIsAnExactStepFromTheStoredStateThenOneRounding) {
  constexpr std::int64_t kN = 40007;
  State state(kN);
  AdamWStep s{.lr = 0.05f, .weight_decay = 0.2f, .grad_scale = 0.5f};
  for (s.t = 1; s.t <= 6; ++s.t) {
    SCOPED_TRACE(fmt::format("step {}", s.t));
    const OwnedTensor grad = random_tensor(DType::F32, {kN}, 200 + static_cast<std::uint32_t>(s.t), 1e-3f);
    const std::vector<double> g = doubles(grad);
    const std::vector<double> p0 = state.master.values();
    const std::vector<double> m0 = state.m.values();
    const std::vector<double> v0 = state.v.values();
    state.step(grad, s);
    const std::vector<double> p1 = state.master.values();
    const std::vector<double> m1 = state.m.values();
    const std::vector<double> v1 = state.v.values();
    // Half a unit in the last place: 2^-4 of a value in E4M3, 2^-11 in F16; and half the subnormal step.
    const double e4m3_floor = 0x1p-10 * state.m.inv();
    const double p_floor = 0x1p-25 * state.master.inv();
    const double v_floor = 0x1p-25 * state.v.inv();
    for (std::size_t i = 0; i < g.size(); ++i) {
      const double gi = 0.5 * g[i];
      const double m = s.beta1 * m0[i] + (1.0 - s.beta1) * gi;
      const double v = s.beta2 * v0[i] + (1.0 - s.beta2) * gi * gi;
      const double denominator = std::sqrt(v / (1 - std::pow(s.beta2, s.t))) + s.eps;
      // From the new moments before they are rounded: with m of 3 bits p would be off by up to 6 % of a step.
      const double p = p0[i] * (1 - 0.05 * 0.2) - 0.05 / (1 - std::pow(s.beta1, s.t)) * m / denominator;
      ASSERT_NEAR(m1[i], m, std::abs(m) * 0x1.01p-4 + e4m3_floor * 1.01) << i;
      ASSERT_NEAR(v1[i], v, v * 0x1.01p-11 + v_floor * 1.01) << i;
      ASSERT_NEAR(p1[i], p, std::abs(p) * 0x1.01p-11 + p_floor + 1e-6) << i;
      ASSERT_EQ(static_cast<double>(state.param.view().data<float>()[i]), p1[i]) << "param is what is stored, " << i;
    }
  }
}

TEST(AdamWFp8, EveryScaleFitsTheNewValues) {
  State state(5000);
  for (std::int64_t t = 1; t <= 5; ++t) {
    state.step(random_tensor(DType::F32, {5000}, 300 + static_cast<std::uint32_t>(t), 1e-2f), {.lr = 0.01f, .t = t});
    const auto expect_fit = [](const OwnedScaled& s, double fp_max) {
      double amax = 0;
      for (double x : s.values()) amax = std::max(amax, std::abs(x));
      EXPECT_LE(amax / s.inv(), fp_max);
      EXPECT_GE(amax / s.inv(), fp_max * 0.49);
    };
    expect_fit(state.master, 65504);
    expect_fit(state.m, 448);
    expect_fit(state.v, 65504);
  }
}

// Noisy gradients of f = sum a_i (p_i - c_i)^2 / 2 with curvatures from 0.1 to 10, and a decaying learning rate.
template <class Step>
double loss_after_training(const OwnedTensor& param, Step step) {
  const std::int64_t n = param.view().numel();
  const OwnedTensor target = random_tensor(DType::F32, {n}, 63);
  const float* c = target.view().data<float>();
  const float* p = param.view().data<float>();
  const auto curvature = [n](std::int64_t i) {
    return std::pow(10.0f, 2.0f * static_cast<float>(i) / static_cast<float>(n) - 1);
  };
  constexpr std::int64_t kSteps = 400;
  for (std::int64_t t = 1; t <= kSteps; ++t) {
    const OwnedTensor grad = random_tensor(DType::F32, {n}, 400 + static_cast<std::uint32_t>(t), 0.1f);
    for (std::int64_t i = 0; i < n; ++i) grad.view().data<float>()[i] += curvature(i) * (p[i] - c[i]);
    const float decay = 1 - 0.99f * static_cast<float>(t) / kSteps;
    step(grad, AdamWStep{.lr = 0.03f * decay, .weight_decay = 0, .t = t});
  }
  double loss = 0;
  for (std::int64_t i = 0; i < n; ++i) loss += curvature(i) * std::pow(p[i] - c[i], 2) / 2;
  return loss / static_cast<double>(n);
}

TEST(AdamWFp8, ReachesTheMinimumOfAQuadraticNearlyAsWellAsFloatStates) {
  constexpr std::int64_t kN = 512;
  State fp8(kN);
  const OwnedTensor param = random_tensor(DType::F32, {kN}, 62, 0.05f);
  const OwnedTensor m(DType::F32, {kN});
  const OwnedTensor v(DType::F32, {kN});
  const double with_fp8 = loss_after_training(fp8.param, [&](const Tensor& g, const AdamWStep& s) { fp8.step(g, s); });
  const double with_float =
      loss_after_training(param, [&](const Tensor& g, const AdamWStep& s) { adamw_step(param, g, m, v, s); });
  // It starts near 1: mean curvature 2.1, mean squared distance 1, one half.
  EXPECT_LT(with_float, 2e-3);
  EXPECT_LT(with_fp8, 1.3 * with_float);
}

TEST(AdamWFp8, TheBytesDoNotDependOnTheNumberOfThreads) {
  const auto run = [&](int threads) {
    const ThreadCount scope(threads);
    State state(100003);
    for (std::int64_t t = 1; t <= 3; ++t) {
      state.step(random_tensor(DType::F32, {100003}, 64 + static_cast<std::uint32_t>(t)), {.lr = 0.01f, .t = t});
    }
    return std::vector{bytes_of(state.param),      bytes_of(state.master.data),      bytes_of(state.m.data),
                       bytes_of(state.v.data),     bytes_of(state.master.scale_inv), bytes_of(state.m.scale_inv),
                       bytes_of(state.v.scale_inv)};
  };
  const auto one = run(1);
  for (int threads : {2, 5}) EXPECT_EQ(run(threads), one) << threads << " threads";
}

TEST(AdamWFp8, ANaNGradientShowsInTheParameterAndKeepsTheScales) {
  State state(100);
  state.step(random_tensor(DType::F32, {100}, 65), {.lr = 0.01f});
  const float inv[] = {state.master.inv(), state.m.inv(), state.v.inv()};
  const OwnedTensor grad = random_tensor(DType::F32, {100}, 66);
  grad.view().data<float>()[42] = kNaN;
  state.step(grad, {.lr = 0.01f, .t = 2});
  EXPECT_TRUE(std::isnan(state.param.view().data<float>()[42]));
  EXPECT_TRUE(std::isfinite(state.param.view().data<float>()[41]));
  EXPECT_EQ(state.master.inv(), inv[0]);
  EXPECT_EQ(state.m.inv(), inv[1]);
  EXPECT_EQ(state.v.inv(), inv[2]);
}

TEST(AdamWFp8, NoParametersIsNoWorkAndAWrongShapeIsRefused) {
  State none(0);
  none.step(OwnedTensor(DType::F32, {0}), {.lr = 0.1f});
  State two(2);
  EXPECT_THROW(two.step(OwnedTensor(DType::F32, {3}), {.lr = 0.1f}), InternalError);
}

TEST(AdamWFp8, PiecesThatShareTheirMaximaHaveTheBitsOfTheWhole) {
  constexpr std::int64_t kAll = 70'000;
  constexpr std::int64_t kBorders[] = {0, 1024, 1024, 40'000, kAll};  // the second piece is empty
  Arena scratch;
  const OwnedTensor start = random_tensor(DType::F32, {kAll}, 31);
  struct States {
    explicit States(std::int64_t n)
        : master(DType::F16, n), m(DType::U8, n), v(DType::F16, n), param(DType::F32, {n}) {}
    OwnedScaled master, m, v;
    OwnedTensor param;
  };
  States whole(kAll);
  scaled_store(start, whole.master);
  std::vector<States> pieces;
  for (int p = 0; p < 4; ++p) {
    States& piece = pieces.emplace_back(kBorders[p + 1] - kBorders[p]);
    convert(whole.master.scale_inv, piece.master.scale_inv);
    std::copy_n(whole.master.data.view().data<std::uint16_t>() + kBorders[p], piece.param.view().numel(),
                piece.master.data.view().data<std::uint16_t>());
  }
  for (int t = 1; t <= 4; ++t) {
    AdamWStep step;
    step.lr = 0.01f;
    step.t = t;
    const OwnedTensor grad = random_tensor(DType::F32, {kAll}, static_cast<std::uint32_t>(40 + t));
    grad.view().data<float>()[50'000] = 300;  // the largest of all, in the last piece
    adamw_fp8_step(whole.param, grad, whole.master, whole.m, whole.v, step, scratch);
    const OwnedTensor amax(DType::I32, {3});
    const auto part = [&](std::size_t p) { return grad.view().elements(kBorders[p], kBorders[p + 1]); };
    for (std::size_t p = 0; p < 4; ++p) {
      adamw_fp8_measure(part(p), pieces[p].master, pieces[p].m, pieces[p].v, step, amax);
    }
    for (std::size_t p = 0; p < 4; ++p) {
      adamw_fp8_store(pieces[p].param, part(p), pieces[p].master, pieces[p].m, pieces[p].v, step, amax, scratch);
    }
  }
  const std::vector<double> params = doubles(whole.param);
  const std::vector<double> m = whole.m.values();
  const std::vector<double> v = whole.v.values();
  for (std::size_t p = 0; p < 4; ++p) {
    const auto of_piece = [&](const std::vector<double>& all) {
      return std::vector<double>(all.begin() + kBorders[p], all.begin() + kBorders[p + 1]);
    };
    EXPECT_EQ(doubles(pieces[p].param), of_piece(params)) << p;
    EXPECT_EQ(pieces[p].m.values(), of_piece(m)) << p;
    EXPECT_EQ(pieces[p].v.values(), of_piece(v)) << p;
    EXPECT_EQ(pieces[p].master.inv(), whole.master.inv());
    EXPECT_EQ(pieces[p].m.inv(), whole.m.inv());
    EXPECT_EQ(pieces[p].v.inv(), whole.v.inv());
  }
}

}  // namespace
}  // namespace nibble
