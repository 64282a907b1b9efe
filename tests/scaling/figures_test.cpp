#include "nibble/scaling/figures.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "nibble/scaling/law_file.h"
#include "tests/report/markup.h"
#include "tests/scaling/quartet_runs.h"

namespace nibble {
namespace {

ScalingFit fit_of(const std::vector<LossPoint>& points) {
  FitOptions options;
  options.bootstrap = 20;
  return fit_scaling(points, options);
}

std::vector<LossPoint> runs_of(const std::set<std::string>& recipes) {
  std::vector<LossPoint> points;
  for (const LossPoint& p : quartet_runs()) {
    if (recipes.count(p.recipe) != 0) points.push_back(p);
  }
  return points;
}

TEST(Figures, TheLossChartHasEveryPointAndACurveThroughThem) {
  const std::vector<LossPoint> points = runs_of({"bf16", "quartet"});
  const LineChart chart = loss_chart(fit_of(points), points);
  std::size_t marks = 0;
  std::size_t curves = 0;
  std::set<std::string> labels;
  for (const Series& series : chart.series) {
    if (series.markers) marks += series.curve.x.size();
    if (!series.line) continue;
    ++curves;
    if (!series.label.empty()) labels.insert(series.label);
    for (std::size_t i = 1; i < series.curve.y.size(); ++i) EXPECT_LT(series.curve.y[i], series.curve.y[i - 1]);
  }
  EXPECT_EQ(marks, points.size());
  EXPECT_EQ(curves, 6u + 4u);  // bf16 has six model sizes, quartet four
  EXPECT_EQ(labels, (std::set<std::string>{"30.5 M", "49.6 M", "103 M", "203 M", "443 M", "822 M"}));
}

TEST(Figures, ThePrecisionChartShowsTheBestOfEveryCell) {
  const ScalingLaw law = load_law(law_folder() / "quartet.toml").law;
  const PrecisionMap map = map_precisions(law, {0.64, 0.94}, default_precisions(), {1e8, 1e9}, {10, 100, 1000});
  const HeatMap chart = precision_chart(map, "r");
  ASSERT_EQ(chart.cells.size(), 2u);
  for (std::size_t r = 0; r < 2; ++r) {
    for (std::size_t c = 0; c < 3; ++c) {
      const std::string name = map.precisions[map.cells[r][c].best].name;
      EXPECT_EQ(chart.cells[r][c].text, std::string() + name[2] + ":" + name[6]);
      EXPECT_NE(chart.cells[r][c].tip.find("FP8:FP8"), std::string::npos);
    }
  }
}

TEST(Figures, ThePageIsWellFormedAndNeedsNoNetwork) {
  std::vector<LossPoint> points = runs_of({"bf16", "quartet", "luq-int4"});
  for (LossPoint& p : points) {
    if (p.recipe == "luq-int4") p.recipe = "<b>&\"luq\"";
  }
  const std::string page = scaling_page(fit_of(points), points, default_precisions());
  const std::vector<Element> elements = parse_markup(page);
  std::size_t heat_maps = 0;
  for (const Element& element : elements) {
    EXPECT_EQ(element.attributes.count("src"), 0u);
    EXPECT_EQ(element.attributes.count("href"), 0u);
    const auto css_class = element.attributes.find("class");
    heat_maps += css_class != element.attributes.end() && css_class->second == "plot heat";
  }
  EXPECT_EQ(heat_maps, 2u) << "one for each recipe with both efficiencies";
  EXPECT_NE(page.find("&lt;b&gt;&amp;&quot;luq&quot;"), std::string::npos);
  EXPECT_EQ(page, scaling_page(fit_of(points), points, default_precisions()));
}

TEST(Figures, AStandaloneDrawingIsWellFormedAndHasItsStyle) {
  const std::vector<LossPoint> points = runs_of({"bf16"});
  const std::string svg = standalone_svg(draw(loss_chart(fit_of(points), points)));
  const std::vector<Element> elements = parse_markup(svg);
  ASSERT_FALSE(elements.empty());
  EXPECT_EQ(elements[0].name, "svg");
  EXPECT_EQ(elements[0].attributes.at("xmlns"), "http://www.w3.org/2000/svg");
  EXPECT_EQ(elements[1].name, "style");
}

TEST(Figures, IntervalsOfEfficienciesNameOpenEnds) {
  EXPECT_EQ(format_efficiency_interval({0.6114, 0.69}), "0.611 to 0.690");
  EXPECT_EQ(format_efficiency_interval({kLeastEfficiency, 1 / kLeastEfficiency}), "0 to inf");
  EXPECT_EQ(format_efficiency_interval({}), "-");
}

}  // namespace
}  // namespace nibble
