// The drawn sections of the report page. Each returns the HTML of its section, or nothing where the runs logged
// nothing for it.
#pragma once

#include <string>
#include <string_view>

#include "nibble/report/summary.h"
#include "nibble/report/svg.h"

namespace nibble {

/// Colour class of a recipe (svg.h): 0 for the baseline, the others in order.
int recipe_color(const Comparison& comparison, std::size_t recipe);
/// Name by which the legend switches all drawings of a recipe.
std::string recipe_group(std::size_t recipe);

/// A drawing in its frame; `caption` is HTML and may be empty.
std::string figure(std::string_view caption, std::string_view drawing);

/// The same plot for wide and for narrow screens; the style sheet shows one of them, so type keeps its size on both.
template <class Plot>
std::string draw_two_widths(Plot plot, int narrow_width = 380) {
  const std::string wide = draw(plot);
  plot.width = narrow_width;
  return "<div class=\"wide-only\">" + wide + "</div><div class=\"narrow\">" + draw(plot) + "</div>\n";
}

/// An SNR that counts as full precision; BF16 operands have 56 dB.
inline constexpr double kFullPrecisionDb = 45;
/// A recipe whose operands are all of full precision or not logged has nothing to plot.
bool is_quantized(const RecipeSummary& recipe);

/// Where recipes changed their stage, as marks for charts over steps; one of each recipe's runs stands for all.
std::vector<Mark> stage_marks(const Comparison& comparison);

std::string final_gap_figure(const Comparison& comparison);
std::string loss_section(const Comparison& comparison);
std::string gap_section(const Comparison& comparison);
std::string quality_section(const Comparison& comparison);
/// Parts of the quality section: curves of the products, of oscillation and of gradient over noise; and maps of layers
/// over time.
std::string product_figures(const Comparison& comparison);
std::string layer_maps(const Comparison& comparison);
std::string alarm_section(const Comparison& comparison);
std::string speed_section(const Comparison& comparison);
std::string optimization_section(const Comparison& comparison);

}  // namespace nibble
