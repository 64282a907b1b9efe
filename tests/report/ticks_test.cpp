#include "nibble/report/ticks.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <set>

#include "nibble/tensor/error.h"

namespace nibble {
namespace {

using Values = std::vector<double>;
using Labels = std::vector<std::string>;

/// A label back to its number.
double value_of(std::string label) {
  double sign = 1;
  if (label.starts_with("−")) {
    sign = -1;
    label.erase(0, std::string("−").size());
  }
  std::size_t end = 0;
  const double number = std::stod(label, &end);
  const std::string suffix = label.substr(end);
  const double unit = suffix == "k" ? 1e3 : suffix == "M" ? 1e6 : suffix == "G" ? 1e9 : suffix == "T" ? 1e12 : 1;
  EXPECT_TRUE(unit != 1 || suffix.empty()) << label;
  return sign * number * unit;
}

TEST(NiceTicks, OfSimpleRanges) {
  EXPECT_EQ(nice_ticks(0, 10, 5), (Values{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(nice_ticks(0, 1, 5), (Values{0, 0.2, 0.4, 0.6, 0.8, 1}));
  EXPECT_EQ(nice_ticks(-0.7, 2.6, 6), (Values{-0.5, 0, 0.5, 1, 1.5, 2, 2.5}));
  EXPECT_EQ(nice_ticks(3.12, 3.39, 5), (Values{3.15, 3.2, 3.25, 3.3, 3.35}));
}

TEST(NiceTicks, OfAnEmptyRangeIsItsValue) { EXPECT_EQ(nice_ticks(3, 3, 5), Values{3}); }

TEST(NiceTicks, RefusesAReversedOrInfiniteRange) {
  EXPECT_THROW(nice_ticks(1, 0, 5), InternalError);
  EXPECT_THROW(nice_ticks(0, INFINITY, 5), InternalError);
  EXPECT_THROW(nice_ticks(NAN, 1, 5), InternalError);
}

RC_GTEST_PROP(NiceTicks, AreRoundMultiplesWithinTheRange, ()) {
  const double low = *rc::gen::inRange(-100000, 100000) * std::pow(10.0, *rc::gen::inRange(-9, 6));
  const double width = *rc::gen::inRange(1, 100000) * std::pow(10.0, *rc::gen::inRange(-6, 6));
  const int target = *rc::gen::inRange(3, 12);
  RC_PRE(width > 1e-6 * std::abs(low));
  const Values ticks = nice_ticks(low, low + width, target);
  RC_ASSERT(ticks.size() >= 2u);
  RC_ASSERT(ticks.size() <= 2u * static_cast<unsigned>(target));
  const double step = ticks[1] - ticks[0];
  const double mantissa = step / std::pow(10.0, std::floor(std::log10(step) + 1e-6));
  RC_ASSERT(std::abs(mantissa - 1) < 1e-4 || std::abs(mantissa - 2) < 1e-4 || std::abs(mantissa - 5) < 1e-4);
  for (std::size_t i = 0; i < ticks.size(); ++i) {
    RC_ASSERT(ticks[i] >= low - 1e-6 * width && ticks[i] <= low + width + 1e-6 * width);
    if (i > 0) RC_ASSERT(std::abs(ticks[i] - ticks[i - 1] - step) < 1e-4 * step);
  }
  RC_ASSERT(ticks.front() - low < step * 1.0001);
  RC_ASSERT(low + width - ticks.back() < step * 1.0001);
}

RC_GTEST_PROP(TickLabels, ReadBackAsTheirTicks, ()) {
  const double low = *rc::gen::inRange(-1000, 1000) * std::pow(10.0, *rc::gen::inRange(-4, 8));
  const double width = *rc::gen::inRange(1, 1000) * std::pow(10.0, *rc::gen::inRange(-4, 8));
  RC_PRE(width > 1e-4 * std::abs(low));
  const Values ticks = nice_ticks(low, low + width, 5);
  const Labels labels = tick_labels(ticks);
  RC_ASSERT(labels.size() == ticks.size());
  RC_ASSERT((std::set<std::string>(labels.begin(), labels.end()).size()) == ticks.size());
  for (std::size_t i = 0; i < ticks.size(); ++i) {
    RC_ASSERT(std::abs(value_of(labels[i]) - ticks[i]) <= 2e-6 * std::abs(ticks[i]) + 1e-12);
  }
}

TEST(LogTicks, AreDecadesOverWideRanges) {
  EXPECT_EQ(log_ticks(0.5, 2000, 5), (Values{1, 10, 100, 1000}));
  EXPECT_EQ(log_ticks(1, 1e8, 4), (Values{1, 1e3, 1e6}));
}

TEST(LogTicks, TakeTwosAndFivesOverNarrowRanges) { EXPECT_EQ(log_ticks(0.3, 12, 5), (Values{0.5, 1, 2, 5, 10})); }

TEST(LogTicks, FallBackToEvenTicksWithinADecade) {
  const Values ticks = log_ticks(3.1, 3.4, 4);
  EXPECT_GE(ticks.size(), 2u);
  EXPECT_EQ(ticks, nice_ticks(3.1, 3.4, 4));
}

TEST(LogTicks, RefuseARangeThatTouchesZero) { EXPECT_THROW(log_ticks(0, 1, 5), InternalError); }

TEST(TickLabels, ShareTheirDecimals) {
  EXPECT_EQ(tick_labels({0, 0.5, 1, 1.5}), (Labels{"0", "0.5", "1.0", "1.5"}));
  EXPECT_EQ(tick_labels({3.15, 3.2}), (Labels{"3.15", "3.20"}));
  EXPECT_EQ(tick_labels({-0.5, 0}), (Labels{"−0.5", "0"}));
}

TEST(TickLabels, UseThousandsOnlyForMultiples) {
  EXPECT_EQ(tick_labels({0, 1000, 2000}), (Labels{"0", "1k", "2k"}));
  EXPECT_EQ(tick_labels({0, 500, 1000}), (Labels{"0", "500", "1000"}));
  EXPECT_EQ(tick_labels({1e6, 2e6}), (Labels{"1M", "2M"}));
}

TEST(TickLabels, UseExponentsForSmallNumbers) {
  EXPECT_EQ(tick_labels({0, 1e-5, 2e-5}), (Labels{"0", "1e-05", "2e-05"}));
}

}  // namespace
}  // namespace nibble
