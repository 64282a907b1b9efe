#include "nibble/io/format.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

constexpr double kInfinity = INFINITY;

TEST(Format, WritesADashForWhatWasNotLogged) {
  for (const std::string& text : {format_loss(NAN), format_gap(NAN), format_percent(NAN), format_decibel(NAN),
                                  format_rate(NAN), format_count(NAN), format_duration(NAN)}) {
    EXPECT_EQ(text, "-");
  }
}

TEST(Format, Losses) {
  EXPECT_EQ(format_loss(3.21434), "3.2143");
  EXPECT_EQ(format_loss(kInfinity), "inf");
}

TEST(Format, GapsAreSignedAndHaveNoNegativeZero) {
  EXPECT_EQ(format_gap(0.836), "+0.84");
  EXPECT_EQ(format_gap(-1.2), "-1.20");
  EXPECT_EQ(format_gap(-0.001), "0.00");
}

TEST(Format, Percentages) {
  EXPECT_EQ(format_percent(0), "0 %");
  EXPECT_EQ(format_percent(0.0125), "1.25 %");
  EXPECT_EQ(format_percent(0.171), "17.1 %");
  EXPECT_EQ(format_percent(0.00003), "0.003 %");
}

TEST(Format, DecibelsOfAnExactOperand) {
  EXPECT_EQ(format_decibel(18.24), "18.2");
  EXPECT_EQ(format_decibel(kInfinity), "exact");
}

TEST(Format, RatesCountsAndDurations) {
  EXPECT_EQ(format_rate(4012.4), "4,012");
  EXPECT_EQ(format_rate(26.04), "26.0");
  EXPECT_EQ(format_rate(1.239), "1.24");
  EXPECT_EQ(format_count(8123456), "8.12 M");
  EXPECT_EQ(format_count(512), "512");
  EXPECT_EQ(format_count(999.9e3), "1.00 M");
  EXPECT_EQ(format_integer(1228800), "1,228,800");
  EXPECT_EQ(format_integer(-1000), "-1,000");
  EXPECT_EQ(format_integer(-100), "-100");
  EXPECT_EQ(format_duration(47.2), "47 s");
  EXPECT_EQ(format_duration(187), "3:07");
  EXPECT_EQ(format_duration(7509), "2:05:09");
  EXPECT_EQ(format_duration(3 * 86400 + 4 * 3600), "3 d 04 h");
}

TEST(DisplayWidth, CountsColumnsNotBytes) {
  EXPECT_EQ(display_width(""), 0u);
  EXPECT_EQ(display_width("loss"), 4u);
  EXPECT_EQ(display_width("Größe"), 5u);
  EXPECT_EQ(display_width("e\xCC\x81"), 1u) << "combining accent";
  EXPECT_EQ(display_width("日本"), 4u);
  EXPECT_EQ(display_width("\xFF\xC3"), 2u) << "not UTF-8: one column a byte";
}

TEST(FitWidth, CutsBetweenCharacters) {
  EXPECT_EQ(fit_width("Größe", 5), "Größe");
  EXPECT_EQ(fit_width("Größe", 4), "Grö…");
  EXPECT_EQ(fit_width("日本語", 4), "日…");
  EXPECT_EQ(fit_width("abc", 1), "…");
  EXPECT_EQ(fit_width("abc", 0), "");
}

}  // namespace
}  // namespace nibble
