#include "nibble/ops/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/ops/op_testing.h"

namespace nibble {
namespace {

using testing::doubles;
using testing::random_tensor;
using testing::same_bits;
using Values = std::vector<double>;

std::int64_t columns(const AttentionShape& s) { return (s.heads + 2 * s.kv_heads) * s.head_dim; }
std::int64_t tokens(const AttentionShape& s) { return s.batch * s.seq; }
std::string describe(const AttentionShape& s) {
  return fmt::format("batch {} seq {} heads {} kv_heads {} head_dim {}", s.batch, s.seq, s.heads, s.kv_heads,
                     s.head_dim);
}

// ---- The definition in double, with the whole row of probabilities in memory. ----

struct Oracle {
  explicit Oracle(const AttentionShape& s, Values qkv) : shape(s), x(std::move(qkv)) {}

  std::size_t at(std::int64_t b, std::int64_t t, std::int64_t head) const {
    return static_cast<std::size_t>((b * shape.seq + t) * columns(shape) + head * shape.head_dim);
  }
  std::size_t q(std::int64_t b, std::int64_t t, std::int64_t h) const { return at(b, t, h); }
  std::size_t k(std::int64_t b, std::int64_t t, std::int64_t h) const {
    return at(b, t, shape.heads + h / (shape.heads / shape.kv_heads));
  }
  std::size_t v(std::int64_t b, std::int64_t t, std::int64_t h) const {
    return at(b, t, shape.heads + shape.kv_heads + h / (shape.heads / shape.kv_heads));
  }
  std::size_t out(std::int64_t b, std::int64_t t, std::int64_t h) const {
    return static_cast<std::size_t>(((b * shape.seq + t) * shape.heads + h) * shape.head_dim);
  }
  std::size_t dims() const { return static_cast<std::size_t>(shape.head_dim); }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(shape.head_dim)); }

  // Probabilities of the keys 0..t and their log-sum-exp.
  Values probabilities(std::int64_t b, std::int64_t t, std::int64_t h, double& lse) const {
    Values p(static_cast<std::size_t>(t + 1));
    double max = -std::numeric_limits<double>::infinity();
    for (std::int64_t u = 0; u <= t; ++u) {
      double score = 0;
      for (std::size_t j = 0; j < dims(); ++j) score += x[q(b, t, h) + j] * x[k(b, u, h) + j];
      p[static_cast<std::size_t>(u)] = score * scale();
      max = std::max(max, score * scale());
    }
    double sum = 0;
    for (const double score : p) sum += std::exp(score - max);
    lse = max + std::log(sum);
    for (double& score : p) score = std::exp(score - lse);
    return p;
  }

  template <class F>
  void for_each_row(F&& f) const {
    for (std::int64_t b = 0; b < shape.batch; ++b) {
      for (std::int64_t h = 0; h < shape.heads; ++h) {
        for (std::int64_t t = 0; t < shape.seq; ++t) f(b, h, t);
      }
    }
  }

  void forward(Values& y, Values& lse) const {
    y.assign(static_cast<std::size_t>(tokens(shape) * shape.heads * shape.head_dim), 0.0);
    lse.clear();
    for_each_row([&](std::int64_t b, std::int64_t h, std::int64_t t) {
      double log_sum = 0;
      const Values p = probabilities(b, t, h, log_sum);
      lse.push_back(log_sum);
      for (std::int64_t u = 0; u <= t; ++u) {
        for (std::size_t j = 0; j < dims(); ++j) {
          y[out(b, t, h) + j] += p[static_cast<std::size_t>(u)] * x[v(b, u, h) + j];
        }
      }
    });
  }

  // `y` is the output that the backward pass is given: rounded, where its storage rounds.
  Values backward(const Values& y, const Values& dy) const {
    Values dx(x.size(), 0.0);
    for_each_row([&](std::int64_t b, std::int64_t h, std::int64_t t) {
      double log_sum = 0;
      const Values p = probabilities(b, t, h, log_sum);
      const std::size_t o = out(b, t, h);
      double delta = 0;
      for (std::size_t j = 0; j < dims(); ++j) delta += y[o + j] * dy[o + j];
      for (std::int64_t u = 0; u <= t; ++u) {
        const double pu = p[static_cast<std::size_t>(u)];
        double dp = 0;
        for (std::size_t j = 0; j < dims(); ++j) dp += dy[o + j] * x[v(b, u, h) + j];
        const double ds = pu * (dp - delta) * scale();
        for (std::size_t j = 0; j < dims(); ++j) {
          dx[q(b, t, h) + j] += ds * x[k(b, u, h) + j];
          dx[k(b, u, h) + j] += ds * x[q(b, t, h) + j];
          dx[v(b, u, h) + j] += pu * dy[o + j];
        }
      }
    });
    return dx;
  }

  AttentionShape shape;
  Values x;
};

double max_abs(const Values& values) {
  double max = 0;
  for (const double v : values) max = std::max(max, std::fabs(v));
  return max;
}

// Every element within `relative` of the largest and within the rounding of its own storage.
void expect_close(const Values& got, const Values& want, double relative, DType storage) {
  ASSERT_EQ(got.size(), want.size());
  const double slack = relative * max_abs(want);
  for (std::size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], slack + testing::rounding(storage) * std::fabs(want[i])) << "element " << i;
  }
}

// ---- The op, with its tensors. ----

struct Problem {
  Problem(const AttentionShape& s, DType dtype, std::uint32_t seed)
      : shape(s),
        qkv(random_tensor(dtype, {tokens(s), columns(s)}, seed, -2.0f, 2.0f)),
        dout(random_tensor(dtype, {tokens(s), s.heads * s.head_dim}, seed + 1000)),
        out(dtype, {tokens(s), s.heads * s.head_dim}),
        dqkv(random_tensor(dtype, {tokens(s), columns(s)}, seed + 2000)),  // the op has to overwrite it
        lse(DType::F32, {s.batch * s.heads, s.seq}) {}
  void forward() { attention_forward(shape, qkv, out, lse, arena); }
  void backward() { attention_backward(shape, qkv, out, lse, dout, dqkv, arena); }
  void both() {
    forward();
    backward();
  }

  AttentionShape shape;
  OwnedTensor qkv, dout, out, dqkv, lse;
  Arena arena;
};

const AttentionShape kShapes[] = {{1, 1, 1, 1, 6},   {2, 7, 4, 2, 6},    {1, 129, 2, 1, 64},
                                  {2, 65, 3, 3, 80}, {1, 200, 4, 1, 16}, {1, 64, 2, 2, 128},
                                  {2, 130, 1, 1, 2}, {1, 33, 1, 1, 256}, {1, 300, 1, 1, 32}};

class Attention : public ::testing::TestWithParam<DType> {};

TEST_P(Attention, ForwardMatchesTheDefinition) {
  std::uint32_t seed = 1;
  for (const AttentionShape& s : kShapes) {
    SCOPED_TRACE(fmt::format("{} seed {}", describe(s), seed));
    Problem run(s, GetParam(), seed++);
    run.forward();
    Values out, lse;
    Oracle(s, doubles(run.qkv)).forward(out, lse);
    expect_close(doubles(run.out), out, 1e-6, GetParam());
    expect_close(doubles(run.lse), lse, 1e-6, DType::F32);
  }
}

TEST_P(Attention, BackwardMatchesTheDefinition) {
  std::uint32_t seed = 50;
  for (const AttentionShape& s : kShapes) {
    SCOPED_TRACE(fmt::format("{} seed {}", describe(s), seed));
    Problem run(s, GetParam(), seed++);
    run.both();
    expect_close(doubles(run.dqkv), Oracle(s, doubles(run.qkv)).backward(doubles(run.out), doubles(run.dout)), 3e-6,
                 GetParam());
  }
}

TEST_P(Attention, ChangingALaterTokenChangesNoEarlierOutput) {
  const AttentionShape s{1, 150, 2, 1, 20};
  for (const std::int64_t changed : {1, 7, 8, 63, 64, 65, 100, 149}) {
    SCOPED_TRACE(fmt::format("token {}", changed));
    Problem before(s, GetParam(), 3), after(s, GetParam(), 3);
    testing::fill_uniform(after.qkv.view().row_range(changed, s.seq), 77, -50.0f, 50.0f);
    before.forward();
    after.forward();
    EXPECT_TRUE(same_bits(before.out.view().row_range(0, changed), after.out.view().row_range(0, changed)));
    EXPECT_FALSE(same_bits(before.out.view().row_range(changed, s.seq), after.out.view().row_range(changed, s.seq)));
  }
}

TEST_P(Attention, AGradientReachesNoLaterToken) {
  const AttentionShape s{1, 150, 2, 1, 20};
  for (const std::int64_t last : {0, 7, 63, 64, 100}) {
    SCOPED_TRACE(fmt::format("token {}", last));
    Problem run(s, GetParam(), 4);
    fill_zero(run.dout.view().row_range(last + 1, s.seq));
    run.both();
    EXPECT_EQ(max_abs(doubles(run.dqkv.view().row_range(last + 1, s.seq))), 0.0);
    EXPECT_GT(max_abs(doubles(run.dqkv.view().row_range(last, last + 1))), 0.0);
  }
}

TEST_P(Attention, SequencesOfABatchDoNotSeeEachOther) {
  const AttentionShape s{3, 70, 4, 2, 24};
  Problem together(s, GetParam(), 5);
  together.both();
  for (std::int64_t b = 0; b < s.batch; ++b) {
    SCOPED_TRACE(fmt::format("sequence {}", b));
    AttentionShape one = s;
    one.batch = 1;
    Problem alone(one, GetParam(), 6);
    convert(together.qkv.view().row_range(b * s.seq, (b + 1) * s.seq), alone.qkv);
    convert(together.dout.view().row_range(b * s.seq, (b + 1) * s.seq), alone.dout);
    alone.both();
    EXPECT_TRUE(same_bits(together.out.view().row_range(b * s.seq, (b + 1) * s.seq), alone.out));
    EXPECT_TRUE(same_bits(together.lse.view().row_range(b * s.heads, (b + 1) * s.heads), alone.lse));
    EXPECT_TRUE(same_bits(together.dqkv.view().row_range(b * s.seq, (b + 1) * s.seq), alone.dqkv));
  }
}

TEST_P(Attention, GroupedQueriesEqualRepeatedKeysAndValues) {
  const AttentionShape grouped{1, 75, 6, 2, 18};
  AttentionShape full = grouped;
  full.kv_heads = full.heads;
  Problem a(grouped, GetParam(), 7), b(full, GetParam(), 8);
  const std::int64_t group = grouped.heads / grouped.kv_heads;
  dispatch_float(GetParam(), [&]<class T>(T*) {
    for (std::int64_t t = 0; t < grouped.seq; ++t) {
      const T* from = a.qkv.view().data<T>() + t * columns(grouped);
      T* to = b.qkv.view().data<T>() + t * columns(full);
      for (std::int64_t head = 0; head < full.heads + 2 * full.kv_heads; ++head) {
        const std::int64_t source = head < full.heads
                                        ? head
                                        : full.heads + (head - full.heads) / full.heads * grouped.kv_heads +
                                              (head - full.heads) % full.heads / group;
        std::copy_n(from + source * full.head_dim, full.head_dim, to + head * full.head_dim);
      }
    }
  });
  a.forward();
  b.forward();
  EXPECT_TRUE(same_bits(a.out, b.out));
}

TEST_P(Attention, ResultsDoNotDependOnTheNumberOfThreads) {
  const AttentionShape s{2, 270, 4, 2, 20};
  Problem one(s, GetParam(), 9);
  {
    const testing::Threads threads(1);
    one.both();
  }
  for (const int count : {2, 3}) {
    SCOPED_TRACE(fmt::format("{} threads", count));
    const testing::Threads threads(count);
    Problem many(s, GetParam(), 9);
    many.both();
    EXPECT_TRUE(same_bits(one.out, many.out));
    EXPECT_TRUE(same_bits(one.lse, many.lse));
    EXPECT_TRUE(same_bits(one.dqkv, many.dqkv));
  }
}

TEST_P(Attention, TheFirstTokenReturnsItsOwnValue) {
  const AttentionShape s{2, 9, 1, 1, 10};
  Problem run(s, GetParam(), 10);
  run.forward();
  const Values x = doubles(run.qkv), y = doubles(run.out);
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t j = 0; j < s.head_dim; ++j) {
      EXPECT_EQ(y[static_cast<std::size_t>(b * s.seq * s.head_dim + j)],
                x[static_cast<std::size_t>(b * s.seq * columns(s) + 2 * s.head_dim + j)]);
    }
  }
}

TEST_P(Attention, ScratchMemoryIsGivenBack) {
  Problem run({1, 70, 2, 2, 16}, GetParam(), 11);
  const Arena::Mark before = run.arena.mark();
  run.both();
  EXPECT_EQ(run.arena.mark().block, before.block);
  EXPECT_EQ(run.arena.mark().offset, before.offset);
}

INSTANTIATE_TEST_SUITE_P(Types, Attention, ::testing::Values(DType::F32, DType::BF16),
                         [](const auto& info) { return dtype_name(info.param); });

// Loss sum(dout . attention(qkv)): the op's float gradient against differences of the oracle in double.
TEST(AttentionGradient, MatchesCentralDifferencesOfTheDefinition) {
  constexpr double kStep = 1e-5;
  std::uint32_t seed = 200;
  for (const AttentionShape& s : {AttentionShape{1, 1, 1, 1, 6}, AttentionShape{2, 7, 4, 2, 6},
                                  AttentionShape{1, 19, 2, 2, 4}, AttentionShape{1, 67, 1, 1, 2}}) {
    SCOPED_TRACE(fmt::format("{} seed {}", describe(s), seed));
    Problem run(s, DType::F32, seed++);
    run.both();
    const Values weights = doubles(run.dout);
    Oracle oracle(s, doubles(run.qkv));
    const auto loss = [&] {
      Values y, lse;
      oracle.forward(y, lse);
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += weights[i] * y[i];
      return sum;
    };
    Values want(oracle.x.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double center = oracle.x[i];
      oracle.x[i] = center + kStep;
      const double above = loss();
      oracle.x[i] = center - kStep;
      const double below = loss();
      oracle.x[i] = center;
      want[i] = (above - below) / (2 * kStep);
    }
    expect_close(doubles(run.dqkv), want, 5e-6, DType::F32);
  }
}

TEST(AttentionRange, LargeScoresGiveAHardMaximumWithoutNan) {
  const AttentionShape s{1, 100, 1, 1, 8};
  Problem run(s, DType::F32, 12);
  float* x = run.qkv.view().data<float>();
  for (std::int64_t t = 0; t < s.seq; ++t) {
    for (std::int64_t j = 0; j < 2 * s.head_dim; ++j) x[t * columns(s) + j] *= 1000.0f;
  }
  run.both();
  Values out, lse;
  Oracle(s, doubles(run.qkv)).forward(out, lse);
  expect_close(doubles(run.out), out, 0.02, DType::F32);  // float scores of 1e7 have steps of 1
  for (const double g : doubles(run.dqkv)) ASSERT_TRUE(std::isfinite(g));
}

TEST(AttentionErrors, KeyValueHeadsThatDoNotDivideTheHeadsAreRefused) {
  Problem run({1, 4, 3, 2, 8}, DType::F32, 13);
  EXPECT_THROW(run.forward(), InternalError);
}

TEST(AttentionErrors, AnOutputOfAnotherTypeIsRefused) {
  Problem run({1, 4, 2, 2, 8}, DType::F32, 14);
  const OwnedTensor out(DType::BF16, {4, 16});
  EXPECT_THROW(attention_forward(run.shape, run.qkv, out, run.lse, run.arena), InternalError);
}

TEST(AttentionErrors, NoTokensIsNoWork) {
  Problem run({0, 4, 2, 2, 8}, DType::F32, 15);
  EXPECT_NO_THROW(run.both());
}

}  // namespace
}  // namespace nibble
