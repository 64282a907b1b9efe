#include "nibble/report/svg.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "nibble/tensor/error.h"
#include "tests/report/markup.h"

namespace nibble {
namespace {

std::vector<Element> with_class(const std::string& drawing, const std::string& name) {
  std::vector<Element> found = parse_markup(drawing);
  std::erase_if(found, [&](const Element& element) { return !has_class(element, name); });
  return found;
}

double number(const Element& element, const std::string& attribute) {
  return std::stod(element.attributes.at(attribute));
}

/// The points of path data "M1 2L3 4", pieces told apart by NaN.
std::vector<std::pair<double, double>> points_of(const std::string& data) {
  std::vector<std::pair<double, double>> points;
  std::size_t at = 0;
  while (at < data.size()) {
    if (data[at] == 'M' && !points.empty()) points.emplace_back(NAN, NAN);
    std::istringstream in(data.substr(at + 1));
    double x, y;
    in >> x >> y;
    points.emplace_back(x, y);
    at = std::min(data.find('M', at + 1), data.find('L', at + 1));
  }
  return points;
}

LineChart chart_of(std::vector<double> y) {
  LineChart chart{.title = "a title"};
  Series series{.name = "one", .label = "one", .group = "r0", .color = 1};
  for (std::size_t i = 0; i < y.size(); ++i) series.curve.x.push_back(static_cast<double>(i));
  series.curve.y = std::move(y);
  chart.series.push_back(series);
  return chart;
}

TEST(EscapeMarkup, LeavesNothingThatEndsTextOrAttribute) {
  EXPECT_EQ(escape_markup("<a href='x'>\"&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;&lt;/a&gt;");
  EXPECT_EQ(escape_markup(std::string("a\0\x1b\nb", 5)), "a\nb");
  EXPECT_EQ(escape_markup("größe"), "größe");
}

TEST(LineChart, PlacesPointsLinearlyBetweenTheEndsOfItsAxes) {
  LineChart chart = chart_of({0, 1, 4});
  chart.y.low = 0;
  chart.y.high = 4;
  const std::string drawing = draw(chart);
  const auto points = points_of(with_class(drawing, "line").at(0).attributes.at("d"));
  ASSERT_EQ(points.size(), 3u);
  EXPECT_NEAR(points[1].first, (points[0].first + points[2].first) / 2, 0.1);
  EXPECT_NEAR(points[1].second, points[0].second + (points[2].second - points[0].second) / 4, 0.1);
  EXPECT_LT(points[2].second, points[0].second) << "up is larger";
}

TEST(LineChart, PlacesPointsByTheirLogarithm) {
  LineChart chart = chart_of({1, 10, 100});
  chart.y.logarithmic = true;
  const auto points = points_of(with_class(draw(chart), "line").at(0).attributes.at("d"));
  ASSERT_EQ(points.size(), 3u);
  EXPECT_NEAR(points[1].second, (points[0].second + points[2].second) / 2, 0.1);
}

TEST(LineChart, DrawsMarksAndLevelsWhereTheyAreOnTheAxes) {
  LineChart chart = chart_of({0, 1, 4});
  chart.marks = {{.x = 1, .label = "begins", .group = "r1", .color = 2}, {.x = 9, .label = "beyond the axis"}};
  chart.levels = {{.value = 2, .label = "half"}, {.value = 99, .label = "above all"}};
  const std::string drawing = draw(chart);
  const auto points = points_of(with_class(drawing, "line").at(0).attributes.at("d"));
  const auto marks = with_class(drawing, "event-line");
  ASSERT_EQ(marks.size(), 1u);
  EXPECT_NEAR(number(marks[0], "x1"), points[1].first, 0.1);
  EXPECT_EQ(with_class(drawing, "event").at(0).attributes.at("data-group"), "r1");
  const auto levels = with_class(drawing, "level");
  ASSERT_EQ(levels.size(), 2u) << "the axis reaches to every level";
  EXPECT_LT(number(levels[0], "y1"), points[1].second);
  EXPECT_GT(number(levels[0], "y1"), points[2].second);
  EXPECT_EQ(drawing.find("beyond"), std::string::npos);
}

TEST(TimeMap, JoinsNeighboursOfOneStrength) {
  TimeMap map{.title = "t", .rows = {"a", "b"}, .steps = {1, 2, 3, 4}, .pale = 40, .strong = 10};
  map.panels = {{"FA", {{40, 10, 10, 25}, {INFINITY, NAN, 10, 10}}}};
  const std::string drawing = draw(map);
  const auto paths = with_class(drawing, "cell");
  ASSERT_EQ(paths.size(), static_cast<std::size_t>(kTimeMapLevels));
  const std::string& strongest = paths.back().attributes.at("d");
  EXPECT_EQ(std::count(strongest.begin(), strongest.end(), 'M'), 2) << strongest;
  const std::string& middle = paths.at(kTimeMapLevels / 2 - 1).attributes.at("d");
  EXPECT_EQ(std::count(middle.begin(), middle.end(), 'M'), 1) << middle;
  for (const auto& path : paths) {
    const std::string level = path.attributes.at("data-level");
    if (level != "6" && level != "12") {
      EXPECT_EQ(path.attributes.at("d"), "") << level;
    }
  }
}

TEST(TimeMap, PutsPanelsBesideAndBelowEachOther) {
  TimeMap map{.title = "t", .width = 400, .rows = {"a"}, .steps = {1}, .panels_per_line = 2};
  for (const char* label : {"FA", "FW", "DG"}) map.panels.push_back({label, {{1.0}}});
  const auto frames = with_class(draw(map), "panel-frame");
  ASSERT_EQ(frames.size(), 3u);
  EXPECT_EQ(number(frames[0], "y"), number(frames[1], "y"));
  EXPECT_GT(number(frames[1], "x"), number(frames[0], "x") + number(frames[0], "width"));
  EXPECT_EQ(number(frames[2], "x"), number(frames[0], "x"));
  EXPECT_GT(number(frames[2], "y"), number(frames[0], "y") + number(frames[0], "height"));
  EXPECT_LE(number(frames[1], "x") + number(frames[1], "width"), 400);
}

TEST(TimeMap, RefusesRaggedValues) {
  TimeMap map{.title = "t", .rows = {"a", "b"}, .steps = {1}, .panels = {{"FA", {{1.0}}}}};
  EXPECT_THROW(draw(map), InternalError);
  map.panels[0].values = {{1.0}, {1.0, 2.0}};
  EXPECT_THROW(draw(map), InternalError);
}

TEST(LineChart, BreaksALineWhereThereIsNoValue) {
  const auto points = points_of(with_class(draw(chart_of({1, 2, NAN, 3, 4})), "line").at(0).attributes.at("d"));
  ASSERT_EQ(points.size(), 5u);
  EXPECT_TRUE(std::isnan(points[2].first));
}

TEST(LineChart, LeavesOutWhatALogarithmCannotShow) {
  LineChart chart = chart_of({0, -1, 1, 10});
  chart.y.logarithmic = true;
  EXPECT_EQ(points_of(with_class(draw(chart), "line").at(0).attributes.at("d")).size(), 2u);
}

TEST(LineChart, NeverWritesNanOrInfinity) {
  for (const std::vector<double>& y : {std::vector<double>{},
                                       {NAN},
                                       {5},
                                       {5, 5, 5},
                                       {0, 0},
                                       {NAN, INFINITY, -INFINITY},
                                       {1e300, -1e300},
                                       {1e-300, 2e-300}}) {
    for (bool logarithmic : {false, true}) {
      LineChart chart = chart_of(y);
      chart.y.logarithmic = logarithmic;
      chart.bands.push_back({.label = "b", .x = {0, 1}, .low = {NAN, NAN}, .high = {NAN, NAN}});
      const std::string drawing = draw(chart);
      EXPECT_NO_THROW(parse_markup(drawing));
      EXPECT_EQ(drawing.find("nan"), std::string::npos) << drawing;
      EXPECT_EQ(drawing.find("inf"), std::string::npos) << drawing;
    }
  }
}

TEST(LineChart, KeepsDirectLabelsApartAndInside) {
  LineChart chart{.title = "crowd", .width = 400, .height = 300};
  for (int i = 0; i < 8; ++i) {
    Series series{.name = "s", .label = "series", .color = i};
    series.curve = {{0, 1}, {1.0, 2.0 + 0.001 * i}};
    chart.series.push_back(series);
  }
  std::vector<double> at;
  for (const Element& label : with_class(draw(chart), "direct")) {
    at.push_back(number(label, "y"));
    EXPECT_GT(at.back(), 0);
    EXPECT_LT(at.back(), 300);
    EXPECT_LT(number(label, "x") + 6 * 6, 400) << "six letters must fit beside the frame";
  }
  ASSERT_EQ(at.size(), 8u);
  std::sort(at.begin(), at.end());
  for (std::size_t i = 1; i < at.size(); ++i) EXPECT_GE(at[i] - at[i - 1], 12) << "labels overlap";
}

TEST(LineChart, LabelsOnlyWhatItShows) {
  LineChart chart = chart_of({1, 2, 3});
  Series far = chart.series[0];
  far.curve.x = {10, 20, 30};
  chart.series.push_back(far);
  chart.x.low = 10;
  EXPECT_EQ(with_class(draw(chart), "direct").size(), 1u) << "the first series ends left of the frame";
}

TEST(LineChart, LabelsALineThatEndsEarlyAtItsEnd) {
  LineChart chart = chart_of({1, 2, 3});
  chart.x.high = 20;
  const Element label = with_class(draw(chart), "direct").at(0);
  EXPECT_LT(number(label, "x"), 150);
}

TEST(LineChart, LetsAReaderRecoverValues) {
  LineChart chart = chart_of({2, 3, 7});
  const std::string drawing = draw(chart);
  const Element plot = with_class(drawing, "plot").at(0);
  std::istringstream axis(plot.attributes.at("data-y"));
  double from, to, low, high;
  axis >> from >> to >> low >> high;
  const auto points = points_of(with_class(drawing, "line").at(0).attributes.at("d"));
  EXPECT_NEAR(low + (points[2].second - from) / (to - from) * (high - low), 7, 0.02);
}

TEST(LineChart, EscapesItsTexts) {
  LineChart chart = chart_of({1, 2});
  chart.title = "<script>";
  chart.series[0].name = chart.series[0].label = "a<b & \"c\"";
  chart.x.label = "'x'";
  EXPECT_NO_THROW(parse_markup(draw(chart)));
  EXPECT_EQ(draw(chart).find("<script"), std::string::npos);
}

TEST(RowPlot, DrawsBarsInProportionFromZero) {
  RowPlot plot{.title = "speed"};
  plot.x.from_zero = true;
  plot.rows = {{.label = "a", .bar = 100}, {.label = "b", .bar = 300}, {.label = "c"}};
  const std::vector<Element> bars = with_class(draw(plot), "bar");
  ASSERT_EQ(bars.size(), 2u) << "a row without a value has no bar";
  EXPECT_NEAR(number(bars[1], "width"), 3 * number(bars[0], "width"), 0.3);
  EXPECT_EQ(number(bars[0], "x"), number(bars[1], "x"));
}

TEST(RowPlot, ShadesItsBandSymmetrically) {
  RowPlot plot{.title = "gap"};
  plot.band_low = -0.5;
  plot.band_high = 0.5;
  plot.band_label = "noise";
  plot.x.from_zero = true;
  plot.rows = {{.label = "a", .marks = {{.value = 2, .tip = "two"}}}};
  const std::string drawing = draw(plot);
  const Element band = with_class(drawing, "band").at(0);
  const Element zero = with_class(drawing, "zero").at(0);
  EXPECT_NEAR(number(band, "x") + number(band, "width") / 2, number(zero, "x1"), 0.2);
}

TEST(RowPlot, StacksMarksInLanes) {
  RowPlot plot{.title = "t", .lanes = true};
  plot.rows = {{.label = "a", .marks = {{.value = 2}, {.value = 2}, {.value = NAN}}}};
  std::vector<double> at;
  for (const Element& element : parse_markup(draw(plot))) {
    if (element.name == "circle") at.push_back(number(element, "cy"));
  }
  ASSERT_EQ(at.size(), 2u);
  EXPECT_GE(std::abs(at[0] - at[1]), 8);
}

TEST(HeatMap, ColoursStrongerTowardsTheStrongEnd) {
  HeatMap map{.title = "snr", .columns = {"FA", "FW", "DG", "DW"}, .rows = {"0"}, .pale = 30, .strong = 10};
  map.cells = {{{30, "30"}, {20, "20"}, {5, "5"}, {INFINITY, "exact"}}};
  std::vector<double> opacity;
  for (const Element& cell : with_class(draw(map), "cell")) opacity.push_back(number(cell, "fill-opacity"));
  ASSERT_EQ(opacity.size(), 4u);
  EXPECT_EQ(opacity[0], 0);
  EXPECT_GT(opacity[1], 0.2);
  EXPECT_NEAR(opacity[2], 2 * opacity[1], 0.002) << "clipped at the strong end";
  EXPECT_EQ(opacity[3], 0);
}

TEST(HeatMap, RefusesCellsThatDoNotFit) {
  HeatMap map{.title = "snr", .columns = {"FA"}, .rows = {"0"}};
  map.cells = {{{1, "1"}, {2, "2"}}};
  EXPECT_THROW(draw(map), InternalError);
}

}  // namespace
}  // namespace nibble
