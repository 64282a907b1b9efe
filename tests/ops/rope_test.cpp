#include "nibble/ops/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/ops/op_testing.h"

namespace nibble {
namespace {

using testing::doubles;
using testing::random_tensor;
using testing::same_bits;

struct Shape {
  std::int64_t batch, seq, heads, kv_heads, head_dim;
  std::int64_t columns() const { return (heads + 2 * kv_heads) * head_dim; }
};
const Shape kShapes[] = {{1, 1, 1, 1, 2}, {2, 7, 4, 2, 6}, {1, 129, 2, 1, 80}, {3, 33, 3, 3, 64}, {1, 5, 2, 2, 128}};
constexpr float kTheta = 10000.0f;

struct Tables {
  Tables(std::int64_t seq, std::int64_t head_dim, float theta = kTheta)
      : cos(DType::F32, {seq, head_dim / 2}), sin(DType::F32, {seq, head_dim / 2}) {
    rope_tables(theta, {}, cos, sin);
  }
  OwnedTensor cos, sin;
};

OwnedTensor copy(const Tensor& from) {
  OwnedTensor to(from.dtype(), from.shape());
  convert(from, to);
  return to;
}

// The definition, with the angle in double.
std::vector<double> oracle(const Shape& s, std::vector<double> x, double direction) {
  for (std::int64_t t = 0; t < s.batch * s.seq; ++t) {
    for (std::int64_t h = 0; h < s.heads + s.kv_heads; ++h) {
      for (std::int64_t j = 0; j < s.head_dim / 2; ++j) {
        const double angle = direction * static_cast<double>(t % s.seq) *
                             std::pow(static_cast<double>(kTheta), -2.0 * static_cast<double>(j) / s.head_dim);
        double& a = x[static_cast<std::size_t>(t * s.columns() + h * s.head_dim + j)];
        double& b = x[static_cast<std::size_t>(t * s.columns() + h * s.head_dim + j + s.head_dim / 2)];
        const double first = a * std::cos(angle) - b * std::sin(angle);
        b = a * std::sin(angle) + b * std::cos(angle);
        a = first;
      }
    }
  }
  return x;
}

class Rope : public ::testing::TestWithParam<DType> {};

TEST_P(Rope, ForwardAndBackwardMatchTheDefinition) {
  std::uint32_t seed = 1;
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(fmt::format("seq {} head_dim {} seed {}", s.seq, s.head_dim, seed));
    const Tables tables(s.seq, s.head_dim);
    const OwnedTensor before = random_tensor(GetParam(), {s.batch * s.seq, s.columns()}, seed++);
    for (const double direction : {1.0, -1.0}) {
      const OwnedTensor x = copy(before);
      direction > 0 ? rope_forward(x, s.heads, s.kv_heads, tables.cos, tables.sin)
                    : rope_backward(x, s.heads, s.kv_heads, tables.cos, tables.sin);
      const std::vector<double> want = oracle(s, doubles(before), direction);
      const std::vector<double> got = doubles(x);
      for (std::size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(got[i], want[i], 4e-7 + testing::rounding(GetParam()) * std::fabs(want[i])) << "element " << i;
      }
    }
  }
}

TEST_P(Rope, ValuesAreLeftAlone) {
  const Shape s{2, 9, 4, 2, 6};
  const Tables tables(s.seq, s.head_dim);
  const OwnedTensor before = random_tensor(GetParam(), {s.batch * s.seq, s.columns()}, 5);
  const OwnedTensor x = copy(before);
  rope_forward(x, s.heads, s.kv_heads, tables.cos, tables.sin);
  const std::vector<double> a = doubles(before), b = doubles(x);
  for (std::int64_t t = 0; t < s.batch * s.seq; ++t) {
    for (std::int64_t c = (s.heads + s.kv_heads) * s.head_dim; c < s.columns(); ++c) {
      const auto i = static_cast<std::size_t>(t * s.columns() + c);
      ASSERT_EQ(a[i], b[i]);
    }
  }
}

TEST_P(Rope, PositionsStartAgainWithEachSequence) {
  const Shape s{3, 7, 2, 1, 16};
  const Tables tables(s.seq, s.head_dim);
  const OwnedTensor together = random_tensor(GetParam(), {s.batch * s.seq, s.columns()}, 6);
  const OwnedTensor apart = copy(together);
  rope_forward(together, s.heads, s.kv_heads, tables.cos, tables.sin);
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const Tensor rows = apart.view().row_range(b * s.seq, (b + 1) * s.seq);
    rope_forward(rows, s.heads, s.kv_heads, tables.cos, tables.sin);
  }
  EXPECT_TRUE(same_bits(together, apart));
}

TEST_P(Rope, ResultsDoNotDependOnTheNumberOfThreads) {
  const Shape s{2, 129, 4, 2, 80};
  const Tables tables(s.seq, s.head_dim);
  const OwnedTensor before = random_tensor(GetParam(), {s.batch * s.seq, s.columns()}, 7);
  const OwnedTensor one = copy(before);
  {
    const testing::Threads threads(1);
    rope_forward(one, s.heads, s.kv_heads, tables.cos, tables.sin);
  }
  for (const int count : {2, 3}) {
    const testing::Threads threads(count);
    const OwnedTensor many = copy(before);
    rope_forward(many, s.heads, s.kv_heads, tables.cos, tables.sin);
    EXPECT_TRUE(same_bits(one, many)) << count << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Rope, ::testing::Values(DType::F32, DType::BF16),
                         [](const auto& info) { return dtype_name(info.param); });

TEST(RopeF32, BackwardUndoesForward) {
  for (const Shape& s : kShapes) {
    const Tables tables(s.seq, s.head_dim);
    const OwnedTensor before = random_tensor(DType::F32, {s.batch * s.seq, s.columns()}, 8);
    const OwnedTensor x = copy(before);
    rope_forward(x, s.heads, s.kv_heads, tables.cos, tables.sin);
    EXPECT_TRUE(s.seq == 1 || !same_bits(x, before));
    rope_backward(x, s.heads, s.kv_heads, tables.cos, tables.sin);
    const std::vector<double> want = doubles(before), got = doubles(x);
    for (std::size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 5e-7);
  }
}

// The gradient of sum(w . rope(x)), by central differences of the oracle, is rope_backward(w).
TEST(RopeF32, BackwardIsTheGradientOfForward) {
  const Shape s{2, 5, 2, 1, 6};
  const Tables tables(s.seq, s.head_dim);
  const OwnedTensor x = random_tensor(DType::F32, {s.batch * s.seq, s.columns()}, 9);
  const OwnedTensor w = random_tensor(DType::F32, {s.batch * s.seq, s.columns()}, 10);
  const std::vector<double> weights = doubles(w);
  const auto loss = [&](const std::vector<double>& at) {
    const std::vector<double> y = oracle(s, at, 1.0);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += weights[i] * y[i];
    return sum;
  };
  rope_backward(w, s.heads, s.kv_heads, tables.cos, tables.sin);
  const std::vector<double> got = doubles(w);
  std::vector<double> at = doubles(x);
  constexpr double kStep = 1e-5;
  for (std::size_t i = 0; i < at.size(); ++i) {
    const double center = at[i];
    at[i] = center + kStep;
    const double above = loss(at);
    at[i] = center - kStep;
    const double below = loss(at);
    at[i] = center;
    ASSERT_NEAR(got[i], (above - below) / (2 * kStep), 1e-6) << "element " << i;
  }
}

// The point of the embedding: a score depends on the distance of the two tokens alone.
TEST(RopeF32, ScoresDependOnRelativePositionOnly) {
  constexpr std::int64_t kDim = 16, kSeq = 40;
  const Tables tables(kSeq, kDim);
  const OwnedTensor x(DType::F32, {kSeq, 3 * kDim});
  const OwnedTensor one = random_tensor(DType::F32, {3 * kDim}, 11);
  for (std::int64_t t = 0; t < kSeq; ++t) convert(one, x.view().row_range(t, t + 1));
  rope_forward(x, 1, 1, tables.cos, tables.sin);
  const std::vector<double> v = doubles(x);
  const auto score = [&](std::int64_t query, std::int64_t key) {
    double sum = 0;
    for (std::int64_t j = 0; j < kDim; ++j) {
      sum += v[static_cast<std::size_t>(query * 3 * kDim + j)] * v[static_cast<std::size_t>(key * 3 * kDim + kDim + j)];
    }
    return sum;
  };
  for (std::int64_t t = 5; t < kSeq; ++t) EXPECT_NEAR(score(t, t - 5), score(5, 0), 3e-6);
}

TEST(RopeTables, AreRoundedFromDouble) {
  constexpr std::int64_t kSeq = 4096, kHalf = 8;
  const Tables tables(kSeq, 2 * kHalf, 500000.0f);
  for (std::int64_t t = 0; t < kSeq; t += 13) {
    for (std::int64_t j = 0; j < kHalf; ++j) {
      const double angle = static_cast<double>(t) * std::pow(500000.0, -2.0 * static_cast<double>(j) / (2 * kHalf));
      EXPECT_NEAR(tables.cos.view().data<float>()[t * kHalf + j], std::cos(angle), 1e-7);
      EXPECT_NEAR(tables.sin.view().data<float>()[t * kHalf + j], std::sin(angle), 1e-7);
    }
  }
}

// Of Llama 3.1, by the definition: the shortest wavelengths stay, the longest grow by the factor, and between both ends
// the frequency falls without a jump.
TEST(RopeScaling, Llama3KeepsShortWavelengthsAndStretchesLongOnes) {
  const RopeScaling llama3{RopeScaling::Kind::Llama3, 8, 1, 4, 8192};
  const auto frequency = [](double wavelength) { return 2 * M_PI / wavelength; };
  EXPECT_DOUBLE_EQ(scaled_frequency(frequency(2000), llama3), frequency(2000));
  EXPECT_DOUBLE_EQ(scaled_frequency(frequency(9000), llama3), frequency(9000) / 8);
  const double middle = frequency(8192 / 2.5);  // half way between the ends: s = 1/2
  EXPECT_NEAR(scaled_frequency(middle, llama3), (0.5 / 8 + 0.5) * middle, 1e-15);
  for (const double end : {2048.0, 8192.0}) {
    const double below = scaled_frequency(frequency(end * 0.999999), llama3);
    EXPECT_NEAR(below, scaled_frequency(frequency(end * 1.000001), llama3), 1e-5 * below);
  }
}

TEST(RopeScaling, LinearPutsPositionsCloserTogether) {
  constexpr std::int64_t kSeq = 16, kHalf = 4;
  const Tables plain(kSeq, 2 * kHalf);
  const OwnedTensor cos(DType::F32, {kSeq, kHalf}), sin(DType::F32, {kSeq, kHalf});
  rope_tables(kTheta, {.kind = RopeScaling::Kind::Linear, .factor = 4}, cos, sin);
  for (std::int64_t t = 0; t < kSeq; t += 4) {
    for (std::int64_t j = 0; j < kHalf; ++j) {
      EXPECT_EQ(cos.view().data<float>()[t * kHalf + j], plain.cos.view().data<float>()[t / 4 * kHalf + j]);
      EXPECT_EQ(sin.view().data<float>()[t * kHalf + j], plain.sin.view().data<float>()[t / 4 * kHalf + j]);
    }
  }
}

TEST(RopeErrors, AWrongNumberOfHeadsIsRefused) {
  const Tables tables(4, 8);
  const OwnedTensor x(DType::F32, {4, 3 * 8});
  EXPECT_THROW(rope_forward(x, 2, 1, tables.cos, tables.sin), InternalError);
}

TEST(RopeErrors, NoRowsIsNoWork) {
  const Tables tables(4, 8);
  const OwnedTensor x(DType::F32, {0, 3 * 8});
  EXPECT_NO_THROW(rope_forward(x, 1, 1, tables.cos, tables.sin));
}

}  // namespace
}  // namespace nibble
