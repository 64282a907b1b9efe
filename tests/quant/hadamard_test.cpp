#include "nibble/quant/hadamard.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "nibble/quant/cpu/hadamard.h"
#include "tests/quant/each_target.h"

namespace nibble {
namespace {

using Signs = Hadamard::Signs;
constexpr RandomStream kStream{0x5EED, 3, 7};

std::vector<float> gaussian(std::int64_t n, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = normal(generator);
  return x;
}

std::vector<float> signs_of(const Hadamard& transform) {
  std::vector<float> signs(static_cast<std::size_t>(transform.group));
  hadamard_signs(transform, kStream, signs.data());
  return signs;
}

std::vector<float> forward(std::vector<float> x, const Hadamard& transform, const RandomStream& stream = kStream) {
  quant_cpu::HadamardRow(transform, stream).forward(x.data(), static_cast<std::int64_t>(x.size()));
  return x;
}
std::vector<float> inverse(std::vector<float> x, const Hadamard& transform, const RandomStream& stream = kStream) {
  quant_cpu::HadamardRow(transform, stream).inverse(x.data(), static_cast<std::int64_t>(x.size()));
  return x;
}

double entry(std::size_t i, std::size_t j) { return std::popcount(i & j) % 2 == 0 ? 1.0 : -1.0; }

/// x diag(s) H / sqrt(g), or x H diag(s) / sqrt(g), in double by the matrix.
std::vector<double> by_matrix(const std::vector<float>& x, const Hadamard& transform) {
  const auto g = static_cast<std::size_t>(transform.group);
  const std::vector<float> s = signs_of(transform);
  std::vector<double> out(x.size());
  for (std::size_t begin = 0; begin < x.size(); begin += g) {
    for (std::size_t j = 0; j < g; ++j) {
      for (std::size_t i = 0; i < g; ++i) {
        out[begin + j] += x[begin + i] * entry(i, j) * s[transform.signs_last ? j : i];
      }
      out[begin + j] /= std::sqrt(static_cast<double>(g));
    }
  }
  return out;
}

/// The levels one after the other, as the header defines them, in float.
std::vector<float> by_levels(std::vector<float> x, const Hadamard& transform) {
  const auto g = static_cast<std::size_t>(transform.group);
  const std::vector<float> s = signs_of(transform);
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(g)));
  for (std::size_t begin = 0; begin < x.size(); begin += g) {
    float* y = x.data() + begin;
    if (!transform.signs_last) {
      for (std::size_t i = 0; i < g; ++i) y[i] *= s[i];
    }
    for (std::size_t stride = 1; stride < g; stride *= 2) {
      const std::vector<float> before(y, y + g);
      for (std::size_t i = 0; i < g; ++i) {
        const std::size_t partner = i ^ stride;
        y[i] = i < partner ? before[i] + before[partner] : before[partner] - before[i];
      }
    }
    for (std::size_t i = 0; i < g; ++i) y[i] *= transform.signs_last ? s[i] * scale : scale;
  }
  return x;
}

std::vector<Hadamard> all_transforms() {
  std::vector<Hadamard> transforms;
  for (std::int64_t g = 2; g <= 256; g *= 2) {
    for (const bool last : {false, true}) {
      transforms.push_back({g, Signs::Plus, last});
      transforms.push_back({g, Signs::Step, last});
      if (g == 16) transforms.push_back({g, Signs::Vector, last});
    }
  }
  return transforms;
}

std::string name(const Hadamard& t) {
  return fmt::format("group {}, signs {}{}", t.group, static_cast<int>(t.signs), t.signs_last ? ", last" : "");
}

double norm(const std::vector<float>& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

TEST(Hadamard, TheMatrixTimesItsTransposeIsTheIdentity) {
  for (std::int64_t g = 2; g <= 256; g *= 2) {
    const auto n = static_cast<std::size_t>(g);
    std::vector<std::vector<float>> rows;
    for (std::size_t i = 0; i < n; ++i) {
      std::vector<float> unit(n, 0.0f);
      unit[i] = 1;
      rows.push_back(forward(unit, {g, Signs::Step, false}));
    }
    const bool exact = g == 4 || g == 16 || g == 64 || g == 256;  // 1 / sqrt(g) is a power of two
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) {
        float dot = 0;
        for (std::size_t k = 0; k < n; ++k) dot += rows[i][k] * rows[j][k];
        EXPECT_NEAR(dot, i == j ? 1.0f : 0.0f, exact ? 0.0 : 1e-6) << "group " << g << ", " << i << ", " << j;
      }
    }
  }
}

TEST(Hadamard, EqualsTheMatrixOfTheDefinition) {
  for (const Hadamard& transform : all_transforms()) {
    SCOPED_TRACE(name(transform));
    for (const std::int64_t groups : {1, 2, 3, 7}) {
      const std::vector<float> x = gaussian(groups * transform.group, 11);
      const std::vector<float> got = forward(x, transform);
      const std::vector<double> want = by_matrix(x, transform);
      for (std::size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(got[i], want[i], 3e-6) << i;
    }
  }
}

void expect_bits_of_the_levels() {
  for (const Hadamard& transform : all_transforms()) {
    SCOPED_TRACE(name(transform));
    for (std::int64_t n = 0; n <= 600; n += transform.group) {
      const std::vector<float> x = gaussian(n, static_cast<std::uint32_t>(n));
      const std::vector<float> want = by_levels(x, transform);
      const std::vector<float> got = forward(x, transform);
      for (std::size_t i = 0; i < x.size(); ++i) {
        ASSERT_EQ(float_bits(got[i]), float_bits(want[i])) << "column " << i << " of " << n;
      }
    }
  }
}

TEST(Hadamard, EveryLevelIsOneSumAndOneDifferenceInOrderOnEveryInstructionSet) {
  for_each_target(expect_bits_of_the_levels);
}

TEST(Hadamard, TheInverseUndoesIt) {
  for (const Hadamard& transform : all_transforms()) {
    SCOPED_TRACE(name(transform));
    const std::vector<float> x = gaussian(3 * transform.group, 5);
    const std::vector<float> back = inverse(forward(x, transform), transform);
    const std::vector<float> again = forward(inverse(x, transform), transform);
    for (std::size_t i = 0; i < x.size(); ++i) {
      ASSERT_NEAR(back[i], x[i], 3e-6) << i;
      ASSERT_NEAR(again[i], x[i], 3e-6) << i;
    }
  }
}

TEST(Hadamard, TheInverseIsTheTranspose) {
  for (const Hadamard& transform : all_transforms()) {
    SCOPED_TRACE(name(transform));
    const std::vector<float> a = gaussian(2 * transform.group, 5);
    const std::vector<float> b = gaussian(2 * transform.group, 6);
    const std::vector<float> ra = forward(a, transform);
    const std::vector<float> tb = inverse(b, transform);
    double left = 0;
    double right = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      left += static_cast<double>(ra[i]) * b[i];
      right += static_cast<double>(a[i]) * tb[i];
    }
    EXPECT_NEAR(left, right, 1e-4);
  }
}

TEST(Hadamard, NormsAndProductsAreKept) {
  for (const Hadamard& transform : all_transforms()) {
    SCOPED_TRACE(name(transform));
    const std::vector<float> a = gaussian(4 * transform.group, 1);
    const std::vector<float> b = gaussian(4 * transform.group, 2);
    const std::vector<float> ra = forward(a, transform);
    const std::vector<float> rb = forward(b, transform);
    EXPECT_NEAR(norm(ra), norm(a), 1e-6 * norm(a));
    double plain = 0;
    double rotated = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      plain += static_cast<double>(a[i]) * b[i];
      rotated += static_cast<double>(ra[i]) * rb[i];
    }
    EXPECT_NEAR(rotated, plain, 1e-6 * norm(a) * norm(b));
  }
}

TEST(Hadamard, NvidiasVectorGivesThePublishedTransforms) {
  const Hadamard transform{16, Signs::Vector, false};
  std::vector<float> unit(16, 0.0f);
  unit[3] = 1;
  const std::vector<float> ones(16, 1.0f);
  std::vector<float> ramp(16);
  for (std::size_t i = 0; i < 16; ++i) ramp[i] = static_cast<float>(i);
  std::vector<float> quarters;
  for (int i = 0; i < 4; ++i) quarters.insert(quarters.end(), {-0.25f, 0.25f, 0.25f, -0.25f});
  EXPECT_EQ(forward(unit, transform), quarters);
  EXPECT_EQ(forward(ones, transform), (std::vector<float>{-1, 0, 1, 0, 1, 0, -1, 0, 1, 2, 1, 0, 1, 0, 1, -2}));
  EXPECT_EQ(forward(ramp, transform), (std::vector<float>{-14.5, -7.5, 6.5, -.5, 6.5, -.5, -14.5, 8.5, 7.5, 14.5, .5,
                                                          1.5, .5, -2.5, 9.5, -15.5}));
  EXPECT_NEAR(norm(forward(ramp, transform)) * norm(forward(ramp, transform)), 1240, 1e-3);
}

TEST(Hadamard, OnlySignsThatComeFirstSpreadAConstantBlock) {
  const std::vector<float> constant(32, 3.0f);
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    const RandomStream stream{seed, 0, 0};
    const std::vector<float> first = forward(constant, {32, Signs::Call, false}, stream);
    const std::vector<float> last = forward(constant, {32, Signs::Call, true}, stream);
    const auto spread = std::count_if(first.begin(), first.end(), [](float v) { return v != 0; });
    EXPECT_GT(spread, 8) << "seed " << seed;
    EXPECT_NE(last[0], 0.0f) << "seed " << seed;
    for (std::size_t i = 1; i < last.size(); ++i) EXPECT_EQ(last[i], 0.0f) << "seed " << seed << ", " << i;
  }
}

TEST(Hadamard, SignsAreTheBitsOfTheStream) {
  const std::vector<float> signs = signs_of({256, Signs::Step, false});
  int minus = 0;
  for (std::size_t c = 0; c < signs.size(); ++c) {
    const bool bit = (kStream.word(c / 32) >> (c % 32) & 1u) != 0;
    EXPECT_EQ(signs[c], bit ? -1.0f : 1.0f) << c;
    minus += bit ? 1 : 0;
  }
  EXPECT_NEAR(minus, 128, 40);
  EXPECT_EQ(signs_of({64, Signs::Plus, false}), std::vector<float>(64, 1.0f));
}

std::vector<bf16> to_bf16(const std::vector<float>& x) {
  std::vector<bf16> out;
  for (const float v : x) out.push_back(bf16_encode(v));
  return out;
}

TEST(Hadamard, TensorsAreTransformedRowByRowForBothTypesAndAnyNumberOfThreads) {
  constexpr std::int64_t kRows = 37;
  constexpr std::int64_t kCols = 192;
  const Hadamard transform{64, Signs::Step, false};
  const std::vector<float> x = gaussian(kRows * kCols, 3);
  std::vector<bf16> narrow = to_bf16(x);
  std::vector<float> wide;
  for (const bf16 v : narrow) wide.push_back(bf16_decode(v));
  const std::vector<float> want = forward(wide, transform);
  const std::vector<bf16> want_narrow = to_bf16(want);
  const int threads = omp_get_max_threads();
  for (const int count : {1, 3}) {
    omp_set_num_threads(count);
    std::vector<float> out(x.size());
    hadamard_forward(Tensor::of(narrow.data(), {kRows, kCols}), transform, kStream,
                     Tensor::of(out.data(), {kRows, kCols}));
    EXPECT_EQ(out, want);
    std::vector<float> in_place = wide;
    const Tensor same = Tensor::of(in_place.data(), {kRows, kCols});
    hadamard_forward(same, transform, kStream, same);
    EXPECT_EQ(in_place, want);
    std::vector<bf16> rounded = narrow;
    const Tensor rounded_view = Tensor::of(rounded.data(), {kRows, kCols});
    hadamard_forward(rounded_view, transform, kStream, rounded_view);
    EXPECT_EQ(std::memcmp(rounded.data(), want_narrow.data(), rounded.size() * sizeof(bf16)), 0);
    hadamard_inverse(Tensor::of(out.data(), {kRows, kCols}), transform, kStream,
                     Tensor::of(out.data(), {kRows, kCols}));
    EXPECT_EQ(out, inverse(want, transform));
  }
  omp_set_num_threads(threads);
}

TEST(Hadamard, EmptyTensorsStayEmpty) {
  float none = 7;
  const Tensor empty = Tensor::of(&none, {0, 32});
  hadamard_forward(empty, {16, Signs::Plus, false}, kStream, empty);
  EXPECT_EQ(none, 7.0f);
}

TEST(Hadamard, GroupsThatDoNotFitAreRefused) {
  std::vector<float> x(48);
  const Tensor t = Tensor::of(x.data(), {1, 48});
  EXPECT_THROW(hadamard_forward(t, {32, Signs::Plus, false}, kStream, t), InternalError);
  EXPECT_THROW(hadamard_forward(t, {12, Signs::Plus, false}, kStream, t), InternalError);
  EXPECT_THROW(hadamard_forward(t, {512, Signs::Plus, false}, kStream, t), InternalError);
  EXPECT_THROW(hadamard_forward(t, {8, Signs::Vector, false}, kStream, t), InternalError);
  EXPECT_THROW(hadamard_inverse(t, {0, Signs::Plus, false}, kStream, t), InternalError);
}

}  // namespace
}  // namespace nibble
