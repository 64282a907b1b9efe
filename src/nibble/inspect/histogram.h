// Histograms of an operand's values in units of its own scales, so that the grid of its format can be drawn over them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "nibble/quant/quantize.h"

namespace nibble {

inline constexpr std::size_t kHistogramBins = 128;

/// Counts of x / s, s the decode scale of x's block; of an operand that is not quantised, of x / rms(x).
/// Bin i is [-edge + i w, -edge + (i + 1) w) with w = 2 edge / kHistogramBins: for E2M1 edge = 8 and w = 1/8, so that
/// grid points and the midpoints between them are borders of bins.
struct Histogram {
  ElementFormat element = ElementFormat::BF16;
  double edge = 0;  ///< 4/3 of the format's largest magnitude; 8 where the operand is not quantised
  std::array<std::int64_t, kHistogramBins> counts{};
  std::int64_t zeros = 0;  ///< x == 0; in no bin
  std::int64_t below = 0;  ///< x / s < -edge
  std::int64_t above = 0;  ///< x / s >= edge, or not a number
  std::int64_t count = 0;  ///< all of these
};

/// Of x (F32 or BF16) as `spec` would quantise it with the folds and signs of `context`: folded, transposed, rotated,
/// but not clamped, and divided by the scales that the clamped values give.
Histogram scaled_histogram(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& scratch);

/// The values of a four-bit format, ascending; of an eight-bit format the two largest; nothing for F32 and BF16.
std::vector<double> grid_of(ElementFormat element);

/// The histogram as SVG in the page's style (report/page_assets.h), counts on a logarithmic scale, grid lines over it.
/// `color` is a series colour (report/svg.h).
std::string draw(const Histogram& histogram, const std::string& title, int color);

}  // namespace nibble
