#include "nibble/report/ticks.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "nibble/tensor/error.h"

namespace nibble {
namespace {

/// mantissa * 10^exponent * k, rounded once: 0.3 is 3 / 10 and not 3 * 0.1.
double multiple(double k, double mantissa, int exponent) {
  const double power = std::pow(10.0, std::abs(exponent));
  return exponent < 0 ? k * mantissa / power : k * mantissa * power;
}

std::vector<double> multiples(double low, double high, double mantissa, int exponent) {
  const double step = multiple(1, mantissa, exponent);
  // Room for the rounding of low / step where low is itself a multiple.
  const double slack = 1e-9;
  const double last = std::floor(high / step + slack);
  std::vector<double> ticks;
  for (double k = std::ceil(low / step - slack); k <= last; ++k) {
    ticks.push_back(k == 0 ? 0 : multiple(k, mantissa, exponent));
  }
  return ticks;
}

std::string with_minus(std::string text) {
  if (!text.empty() && text[0] == '-') text.replace(0, 1, "−");
  return text;
}

/// Fewest decimals (up to `most`) that write every value to within a millionth of its size.
int decimals_for(const std::vector<double>& values, int most) {
  for (int decimals = 0; decimals < most; ++decimals) {
    const double unit = std::pow(10.0, decimals);
    if (std::all_of(values.begin(), values.end(), [unit](double value) {
          return std::abs(std::round(value * unit) / unit - value) <= 1e-6 * std::abs(value);
        })) {
      return decimals;
    }
  }
  return most;
}

}  // namespace

std::vector<double> nice_ticks(double low, double high, int target) {
  require(std::isfinite(low) && std::isfinite(high) && low <= high && target >= 1, "no ticks for [{}, {}]", low, high);
  // Closer together than this, ticks could not be told apart in double precision.
  const double resolution = 1e-12 * std::max(std::abs(low), std::abs(high));
  if (high - low <= resolution) return {low};
  const int exponent = static_cast<int>(std::floor(std::log10((high - low) / target)));
  std::vector<double> best;
  double best_distance = std::numeric_limits<double>::infinity();
  for (int e = exponent - 1; e <= exponent + 1; ++e) {
    for (double mantissa : {1.0, 2.0, 5.0}) {
      std::vector<double> ticks = multiples(low, high, mantissa, e);
      const double distance = std::abs(static_cast<double>(ticks.size()) - target);
      if (distance < best_distance) {
        best_distance = distance;
        best = std::move(ticks);
      }
    }
  }
  return best;
}

std::vector<double> log_ticks(double low, double high, int target) {
  require(low > 0 && std::isfinite(high) && low <= high && target >= 1, "no logarithmic ticks for [{}, {}]", low, high);
  const int first = static_cast<int>(std::ceil(std::log10(low) - 1e-9));
  const int last = static_cast<int>(std::floor(std::log10(high) + 1e-9));
  std::vector<double> ticks;
  if (last - first >= 2) {
    const int every = (last - first + target) / target;
    for (int e = first; e <= last; e += every) ticks.push_back(std::pow(10.0, e));
    return ticks;
  }
  for (int e = first - 1; e <= last; ++e) {
    for (double mantissa : {1.0, 2.0, 5.0}) {
      const double tick = multiple(1, mantissa, e);
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push_back(tick);
    }
  }
  return ticks.size() >= 2 ? ticks : nice_ticks(low, high, target);
}

std::vector<std::string> tick_labels(const std::vector<double>& ticks) {
  double largest = 0;
  double smallest = std::numeric_limits<double>::infinity();
  for (double tick : ticks) {
    largest = std::max(largest, std::abs(tick));
    if (tick != 0) smallest = std::min(smallest, std::abs(tick));
  }
  std::vector<std::string> labels;
  if (largest > 0 && (largest < 1e-3 || (smallest < 1e-4 && largest / smallest > 1e3))) {
    for (double tick : ticks) labels.push_back(tick == 0 ? "0" : with_minus(fmt::format("{:.3g}", tick)));
    return labels;
  }
  static constexpr std::array<std::pair<double, const char*>, 5> kUnits = {
      {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}, {1, ""}}};
  const auto [unit, suffix] = *std::find_if(kUnits.begin(), kUnits.end(), [&](const auto& u) {
    const double unit = u.first;
    return unit == 1 || (largest >= unit && std::all_of(ticks.begin(), ticks.end(), [unit](double tick) {
                           return std::abs(std::remainder(tick, unit)) <= 1e-9 * std::abs(tick);
                         }));
  });
  std::vector<double> scaled;
  scaled.reserve(ticks.size());
  for (double tick : ticks) scaled.push_back(tick / unit);
  const int decimals = decimals_for(scaled, 10);
  for (double value : scaled) {
    labels.push_back(value == 0 ? "0" : with_minus(fmt::format("{:.{}f}{}", value, decimals, suffix)));
  }
  return labels;
}

}  // namespace nibble
