#include "nibble/report/curves.h"

#include <algorithm>
#include <cmath>

namespace nibble {
namespace {

/// The values of several curves (ascending x) at the x they have in common.
struct Aligned {
  std::vector<double> x;
  std::vector<std::vector<double>> y;  ///< one vector of all curves' values an x
};

Aligned align(const std::vector<Curve>& curves) {
  Aligned aligned;
  if (curves.empty()) return aligned;
  std::vector<std::size_t> next(curves.size(), 0);
  for (std::size_t i = 0; i < curves[0].x.size(); ++i) {
    const double x = curves[0].x[i];
    std::vector<double> values{curves[0].y[i]};
    for (std::size_t c = 1; c < curves.size(); ++c) {
      while (next[c] < curves[c].x.size() && curves[c].x[next[c]] < x) ++next[c];
      if (next[c] < curves[c].x.size() && curves[c].x[next[c]] == x) values.push_back(curves[c].y[next[c]]);
    }
    if (values.size() != curves.size()) continue;
    aligned.x.push_back(x);
    aligned.y.push_back(std::move(values));
  }
  return aligned;
}

Curve raw_loss(const RunLog& run) {
  Curve curve;
  for (const StepRecord& record : run.steps) {
    curve.x.push_back(static_cast<double>(record.step));
    curve.y.push_back(record.loss);
  }
  return curve;
}

double mean(const std::vector<double>& values, std::size_t from = 0) {
  double sum = 0;
  for (std::size_t i = from; i < values.size(); ++i) sum += values[i];
  return sum / static_cast<double>(values.size() - from);
}

Curve gap(Curve run, const std::vector<Curve>& baselines) {
  if (baselines.empty()) return {};
  std::vector<Curve> curves{std::move(run)};
  curves.insert(curves.end(), baselines.begin(), baselines.end());
  const Aligned aligned = align(curves);
  Curve result{aligned.x, {}};
  for (const std::vector<double>& values : aligned.y) result.y.push_back(100 * (values[0] / mean(values, 1) - 1));
  return result;
}

Curve spread(const std::vector<Curve>& curves) {
  const Aligned aligned = align(curves);
  Curve result{aligned.x, {}};
  for (const std::vector<double>& values : aligned.y) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    result.y.push_back(100 * (*high - *low) / mean(values));
  }
  return result;
}

template <class Get>
std::vector<Curve> map(const std::vector<const RunLog*>& runs, Get get) {
  std::vector<Curve> curves;
  curves.reserve(runs.size());
  for (const RunLog* run : runs) curves.push_back(get(*run));
  return curves;
}

}  // namespace

std::vector<double> smooth(const std::vector<double>& values, std::size_t half_width) {
  // Running sums would let one huge value poison all that follow; prefix sums of a run of 10^6 steps in double
  // keep ten digits, and a loss that explodes only spoils its own tail.
  std::vector<double> sums(values.size() + 1, 0);
  std::vector<std::size_t> counts(values.size() + 1, 0);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool finite = std::isfinite(values[i]);
    sums[i + 1] = sums[i] + (finite ? values[i] : 0);
    counts[i + 1] = counts[i] + (finite ? 1 : 0);
  }
  std::vector<double> result(values.size(), kNotLogged);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) continue;
    const std::size_t begin = i - std::min(i, half_width);
    const std::size_t end = std::min(values.size(), i + half_width + 1);
    result[i] = (sums[end] - sums[begin]) / static_cast<double>(counts[end] - counts[begin]);
  }
  return result;
}

std::size_t smoothing_half_width(std::size_t n) { return n / 50; }

Curve loss_curve(const RunLog& run) {
  Curve curve = raw_loss(run);
  curve.y = smooth(curve.y, smoothing_half_width(curve.y.size()));
  return curve;
}

Curve validation_curve(const RunLog& run) {
  Curve curve;
  for (const ValidationPoint& point : run.validation) {
    curve.x.push_back(static_cast<double>(point.step));
    curve.y.push_back(point.loss);
  }
  return curve;
}

Curve training_gap(const RunLog& run, const std::vector<const RunLog*>& baselines) {
  Curve curve = gap(raw_loss(run), map(baselines, raw_loss));
  curve.y = smooth(curve.y, smoothing_half_width(curve.y.size()));
  return curve;
}

Curve validation_gap(const RunLog& run, const std::vector<const RunLog*>& baselines) {
  return gap(validation_curve(run), map(baselines, validation_curve));
}

Curve noise_curve(const std::vector<const RunLog*>& baselines) {
  if (baselines.size() < 2) return {};
  Curve curve = spread(map(baselines, validation_curve));
  if (curve.x.size() < 2) return spread(map(baselines, loss_curve));
  for (double& y : curve.y) y *= y;
  curve.y = smooth(curve.y, 2);
  for (double& y : curve.y) y = std::sqrt(y);
  return curve;
}

Curve thin(const Curve& curve, std::size_t points) {
  const std::size_t n = curve.x.size();
  if (n <= points || points < 2) return curve;
  Curve result;
  for (std::size_t i = 0; i < points; ++i) {
    const std::size_t at = i * (n - 1) / (points - 1);
    result.x.push_back(curve.x[at]);
    result.y.push_back(curve.y[at]);
  }
  return result;
}

Curve mean_curve(const std::vector<Curve>& curves) {
  const Aligned aligned = align(curves);
  Curve result{aligned.x, {}};
  for (const std::vector<double>& values : aligned.y) result.y.push_back(mean(values));
  return result;
}

}  // namespace nibble
