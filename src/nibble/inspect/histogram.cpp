#include "nibble/inspect/histogram.h"

#include <algorithm>
#include <cmath>

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/e3m0.h"
#include "nibble/numerics/int4.h"
#include "nibble/report/svg_writer.h"

namespace nibble {

namespace {

constexpr double kUnquantisedEdge = 8;

// Of the drawing, in CSS pixels.
constexpr double kWidth = 320;
constexpr double kHeight = 120;
constexpr double kTop = 6;
constexpr double kBottom = kHeight - 20;
constexpr double kSide = 10;

void count_value(Histogram& h, double value, double unit) {
  ++h.count;
  if (value == 0) {
    ++h.zeros;
    return;
  }
  const double place = std::floor((value / unit + h.edge) * (kHistogramBins / (2 * h.edge)));
  if (place < 0) {
    ++h.below;
  } else if (place < static_cast<double>(kHistogramBins)) {
    ++h.counts[static_cast<std::size_t>(place)];
  } else {
    ++h.above;
  }
}

/// Of values [rows, cols] in F32, in units of their root mean square.
void count_in_rms(Histogram& h, const float* values, std::int64_t n) {
  double squares = 0;
  for (std::int64_t i = 0; i < n; ++i) squares += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  const double rms = std::sqrt(squares / static_cast<double>(std::max<std::int64_t>(n, 1)));
  for (std::int64_t i = 0; i < n; ++i) count_value(h, static_cast<double>(values[i]), rms);
}

void count_in_scales(Histogram& h, const float* values, const QTensor& q) {
  const std::int64_t stretch = std::max<std::int64_t>(q.block_cols(), 1);
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t begin = 0; begin < q.cols; begin += stretch) {
      const auto scale = static_cast<double>(q.scale_at(r, begin));
      const std::int64_t end = std::min(begin + stretch, q.cols);
      for (std::int64_t c = begin; c < end; ++c) count_value(h, static_cast<double>(values[r * q.cols + c]), scale);
    }
  }
}

template <class Decode>
std::vector<double> four_bit_grid(const Decode& decode) {
  std::vector<double> grid;
  for (std::uint8_t code = 0; code < 16; ++code) {
    if (code != 8) grid.push_back(static_cast<double>(decode(code)));  // code 8 is -0
  }
  std::sort(grid.begin(), grid.end());
  return grid;
}

}  // namespace

Histogram scaled_histogram(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& scratch) {
  const ArenaScope scope(scratch);
  Histogram h;
  h.element = spec.element;
  h.edge = has_scale(spec.element) ? static_cast<double>(element_max(spec.element)) * 4 / 3 : kUnquantisedEdge;
  QuantSpec values_spec;
  values_spec.element = ElementFormat::F32;
  values_spec.transposed = spec.transposed;
  values_spec.hadamard = spec.hadamard;
  values_spec.bf16_input = spec.bf16_input;
  const QTensor values = quantize(x, values_spec, context, scratch);
  const float* data = values.codes.data<float>();
  if (!has_scale(spec.element)) {
    count_in_rms(h, data, values.rows * values.cols);
    return h;
  }
  // The scales that elements are rounded with: none of these changes them, but each would hide them.
  QuantSpec scales_spec = spec;
  scales_spec.rounding = Rounding::NearestEven;
  scales_spec.carrier = ElementFormat::BF16;
  scales_spec.clamp.residual = ResidualMode::None;
  scales_spec.trust_mask = false;
  count_in_scales(h, data, quantize(x, scales_spec, context, scratch));
  return h;
}

std::vector<double> grid_of(ElementFormat element) {
  switch (element) {
    case ElementFormat::E2M1: return four_bit_grid(e2m1_decode);
    case ElementFormat::Int4: return four_bit_grid(int4_decode);
    case ElementFormat::E3M0: return four_bit_grid(e3m0_decode);
    case ElementFormat::E4M3:
    case ElementFormat::E5M2: {
      const auto largest = static_cast<double>(element_max(element));
      return {-largest, largest};
    }
    case ElementFormat::F32:
    case ElementFormat::BF16: break;
  }
  return {};
}

std::string draw(const Histogram& h, const std::string& title, int color) {
  const std::int64_t most = *std::max_element(h.counts.begin(), h.counts.end());
  const auto x_of = [&](double value) { return kSide + (value + h.edge) / (2 * h.edge) * (kWidth - 2 * kSide); };
  const auto y_of = [&](std::int64_t count) {
    const double share = most == 0 ? 0 : std::log1p(static_cast<double>(count)) / std::log1p(static_cast<double>(most));
    return kBottom - share * (kBottom - kTop);
  };
  std::string out = open_drawing("histogram", kWidth, kHeight, title);
  std::string path = fmt::format("M{} {}", coordinate(kSide), coordinate(kBottom));
  const double bin = 2 * h.edge / static_cast<double>(kHistogramBins);
  for (std::size_t i = 0; i < kHistogramBins; ++i) {
    path += fmt::format("V{}H{}", coordinate(y_of(h.counts[i])),
                        coordinate(x_of(-h.edge + bin * static_cast<double>(i + 1))));
  }
  out += fmt::format("<path class=\"bar k{}\" d=\"{}V{}Z\"/>\n", color, path, coordinate(kBottom));
  for (const double value : grid_of(h.element)) out += line_element(x_of(value), kTop, x_of(value), kBottom, "axis");
  out += line_element(kSide, kBottom, kWidth - kSide, kBottom, "axis");
  const double largest = has_scale(h.element) ? static_cast<double>(element_max(h.element)) : h.edge;
  for (const double share : {-1.0, -0.5, 0.0, 0.5, 1.0}) {
    out += text_element(x_of(share * largest), kHeight - 6, Anchor::Middle, "tick",
                        fmt::format("{:g}", share == 0 ? 0.0 : share * largest));
  }
  return out + "</svg>\n";
}

}  // namespace nibble
