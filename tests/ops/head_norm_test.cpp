#include "nibble/ops/head_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/ops/op_testing.h"

namespace nibble {
namespace {

using testing::doubles;
using testing::random_tensor;
using testing::rounding;
using testing::same_bits;

constexpr float kEps = 1e-5f;

struct Shape {
  std::int64_t rows, heads, kv_heads, dim;
  std::int64_t turned() const { return heads + kv_heads; }
  std::int64_t columns() const { return (heads + 2 * kv_heads) * dim; }
};
const Shape kShapes[] = {{1, 1, 1, 2}, {5, 4, 2, 6}, {70, 3, 3, 33}, {9, 2, 1, 128}, {300, 2, 1, 20}};

struct Inputs {
  Inputs(const Shape& s, DType dtype)
      : q_gain(random_tensor(DType::F32, {s.dim}, 2)),
        k_gain(random_tensor(DType::F32, {s.dim}, 3)),
        qkv(random_tensor(dtype, {s.rows, s.columns()}, 1, -2, 2)),
        gains{q_gain, k_gain},
        before(dtype, {s.rows, s.turned() * s.dim}),
        rstd(DType::F32, {s.rows, s.turned()}) {}
  OwnedTensor q_gain, k_gain, qkv;
  HeadGains gains;
  OwnedTensor before, rstd;
};

/// Element i of head h of row t; v heads as they are.
struct Oracle {
  Shape s;
  std::size_t at(std::int64_t t, std::int64_t h, std::int64_t i) const {
    return static_cast<std::size_t>(t * s.columns() + h * s.dim + i);
  }
  double rstd(const std::vector<double>& x, std::int64_t t, std::int64_t h) const {
    double squares = 0;
    for (std::int64_t i = 0; i < s.dim; ++i) squares += x[at(t, h, i)] * x[at(t, h, i)];
    return 1 / std::sqrt(squares / static_cast<double>(s.dim) + static_cast<double>(kEps));
  }
  std::vector<double> forward(const std::vector<double>& x, const std::vector<double>& q,
                              const std::vector<double>& k) const {
    std::vector<double> y = x;
    for (std::int64_t t = 0; t < s.rows; ++t) {
      for (std::int64_t h = 0; h < s.turned(); ++h) {
        for (std::int64_t i = 0; i < s.dim; ++i) {
          y[at(t, h, i)] *= rstd(x, t, h) * (h < s.heads ? q : k)[static_cast<std::size_t>(i)];
        }
      }
    }
    return y;
  }
};

class HeadNorm : public ::testing::TestWithParam<DType> {};

TEST_P(HeadNorm, ForwardAgreesWithTheDoubleOracleAndKeepsWhatWasThere) {
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(fmt::format("{} rows, {}/{} heads of {}", s.rows, s.heads, s.kv_heads, s.dim));
    const Inputs in(s, GetParam());
    const std::vector<double> x = doubles(in.qkv);
    const Oracle oracle{s};
    const std::vector<double> want = oracle.forward(x, doubles(in.q_gain), doubles(in.k_gain));
    head_norm_forward(in.qkv, s.heads, s.kv_heads, in.gains, kEps, in.before, in.rstd);
    const std::vector<double> got = doubles(in.qkv);
    for (std::size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], (rounding(GetParam()) + 1e-6) * std::abs(want[i])) << "element " << i;
    }
    const std::vector<double> kept = doubles(in.before);
    for (std::int64_t t = 0; t < s.rows; ++t) {
      for (std::int64_t h = 0; h < s.turned(); ++h) {
        const double rstd = oracle.rstd(x, t, h);
        ASSERT_NEAR(in.rstd.view().data<float>()[t * s.turned() + h], rstd, 2e-6 * rstd);
        for (std::int64_t i = 0; i < s.dim; ++i) {
          ASSERT_EQ(kept[static_cast<std::size_t>((t * s.turned() + h) * s.dim + i)], x[oracle.at(t, h, i)]);
        }
      }
    }
  }
}

// The gradient of sum(w . y) by central differences of the oracle.
TEST(HeadNormF32, BackwardIsTheGradientOfForward) {
  const Shape s{3, 2, 1, 5};
  const Inputs in(s, DType::F32);
  std::vector<double> x = doubles(in.qkv), q = doubles(in.q_gain), k = doubles(in.k_gain);
  const OwnedTensor dqkv = random_tensor(DType::F32, {s.rows, s.columns()}, 4);
  const std::vector<double> w = doubles(dqkv);
  const OwnedTensor dq = random_tensor(DType::F32, {s.dim}, 5), dk = random_tensor(DType::F32, {s.dim}, 6);
  const std::vector<double> dq_before = doubles(dq), dk_before = doubles(dk);
  Arena scratch;
  head_norm_forward(in.qkv, s.heads, s.kv_heads, in.gains, kEps, in.before, in.rstd);
  head_norm_backward(dqkv, s.heads, s.kv_heads, in.gains, in.before, in.rstd, {dq, dk}, scratch);
  const auto expect_gradient = [&](std::vector<double>& at, const std::vector<double>& got,
                                   const std::vector<double>& added_to, const char* what) {
    for (std::size_t i = 0; i < at.size(); ++i) {
      constexpr double kStep = 1e-5;
      const double centre = at[i];
      double difference = 0;
      for (const double side : {1.0, -1.0}) {
        at[i] = centre + side * kStep;
        const std::vector<double> y = Oracle{s}.forward(x, q, k);
        for (std::size_t j = 0; j < y.size(); ++j) difference += side * w[j] * y[j];
      }
      at[i] = centre;
      EXPECT_NEAR(got[i] - added_to[i], difference / (2 * kStep), 2e-5) << what << " " << i;
    }
  };
  expect_gradient(x, doubles(dqkv), std::vector<double>(x.size()), "qkv");
  expect_gradient(q, doubles(dq), dq_before, "query gain");
  expect_gradient(k, doubles(dk), dk_before, "key gain");
}

TEST(HeadNormBf16, BackwardIsThatInF32Rounded) {
  for (const Shape& s : kShapes) {
    const Inputs narrow(s, DType::BF16);
    Inputs wide(s, DType::F32);
    convert(narrow.qkv, wide.qkv);
    const OwnedTensor d_narrow = random_tensor(DType::BF16, {s.rows, s.columns()}, 4);
    const OwnedTensor d_wide(DType::F32, {s.rows, s.columns()});
    convert(d_narrow, d_wide);
    const OwnedTensor gains[4] = {OwnedTensor(DType::F32, {s.dim}), OwnedTensor(DType::F32, {s.dim}),
                                  OwnedTensor(DType::F32, {s.dim}), OwnedTensor(DType::F32, {s.dim})};
    Arena scratch;
    for (const bool is_wide : {false, true}) {
      const Inputs& in = is_wide ? wide : narrow;
      head_norm_forward(in.qkv, s.heads, s.kv_heads, in.gains, kEps, in.before, in.rstd);
      head_norm_backward(is_wide ? d_wide : d_narrow, s.heads, s.kv_heads, in.gains, in.before, in.rstd,
                         {gains[2 * is_wide], gains[2 * is_wide + 1]}, scratch);
    }
    const std::vector<double> got = doubles(d_narrow), want = doubles(d_wide);
    for (std::size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], rounding(DType::BF16) * std::abs(want[i]) + 1e-7);
    }
    EXPECT_TRUE(same_bits(gains[0], gains[2]));
    EXPECT_TRUE(same_bits(gains[1], gains[3]));
  }
}

TEST_P(HeadNorm, ResultsDoNotDependOnTheNumberOfThreads) {
  const Shape s{333, 3, 1, 48};
  std::vector<OwnedTensor> first;
  for (const int threads : {1, 2, 3}) {
    const testing::Threads set(threads);
    const Inputs in(s, GetParam());
    std::vector<OwnedTensor> results;
    results.push_back(random_tensor(GetParam(), {s.rows, s.columns()}, 4));
    results.emplace_back(DType::F32, std::initializer_list<std::int64_t>{s.dim});
    results.emplace_back(DType::F32, std::initializer_list<std::int64_t>{s.dim});
    Arena scratch;
    head_norm_forward(in.qkv, s.heads, s.kv_heads, in.gains, kEps, in.before, in.rstd);
    head_norm_backward(results[0], s.heads, s.kv_heads, in.gains, in.before, in.rstd, {results[1], results[2]},
                       scratch);
    if (first.empty()) {
      first = std::move(results);
      continue;
    }
    for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(first[i], results[i])) << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Types, HeadNorm, ::testing::Values(DType::F32, DType::BF16),
                         [](const auto& info) { return dtype_name(info.param); });

TEST(HeadNormErrors, AWrongNumberOfHeadsIsRefused) {
  const Inputs in({2, 2, 1, 4}, DType::F32);
  EXPECT_THROW(head_norm_forward(in.qkv, 3, 1, in.gains, kEps, in.before, in.rstd), InternalError);
}

}  // namespace
}  // namespace nibble
