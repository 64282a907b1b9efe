#include "nibble/scaling/fit.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <span>
#include <utility>

#include "nibble/io/format.h"
#include "nibble/io/suggest.h"
#include "nibble/numerics/philox.h"
#include "nibble/scaling/huber.h"
#include "nibble/tensor/error.h"
#include "nibble/tensor/parallel.h"

namespace nibble {

namespace {

/// e^theta within [low, high]; outside, theta has no influence.
struct Bounded {
  double value;
  double slope;  ///< d value / d theta
  Bounded(double theta, double low, double high) {
    const double free = std::exp(theta);
    value = std::clamp(free, low, high);
    slope = value == free ? value : 0;
  }
};

// Losses that show no limit let E run towards 0, and losses without a trend let exponents run away; A and B would then
// leave the range of double.
Bounded term(double theta) { return {theta, 1e-130, 1e130}; }
Bounded exponent(double theta) { return {theta, 1e-3, 10}; }
Bounded outer_exponent(double theta) { return {theta, 1e-2, 1e2}; }
Bounded limit(double theta) { return {theta, kLeastLimit, 1e300}; }
Bounded efficiency_of(double theta) { return {theta, kLeastEfficiency, 1 / kLeastEfficiency}; }

/// The law in the coordinates of the fit: logarithms of what must be positive, and both terms at the centre of the
/// points instead of A and B, which stand for N = D = 1 and would follow every change of alpha and beta.
///
///   log L = log(S^gamma + E),  S = e^(a - alpha n) + e^(b - beta d),  n = log N - mean log N,  d = log D - mean log D
///   theta = (a, log alpha, b, log beta, log E, log gamma)
class CentredLaw {
 public:
  explicit CentredLaw(const std::vector<LossPoint>& points) : points_(points) {
    for (const LossPoint& point : points) {
      centre_n_ += std::log(point.params);
      centre_d_ += std::log(point.tokens);
    }
    centre_n_ /= static_cast<double>(points.size());
    centre_d_ /= static_cast<double>(points.size());
  }

  void residuals(std::span<const double> theta, std::span<double> r, std::span<double> J) const {
    const Bounded a = term(theta[0]);
    const Bounded b = term(theta[2]);
    const Bounded alpha = exponent(theta[1]);
    const Bounded beta = exponent(theta[3]);
    const Bounded E = limit(theta[4]);
    const Bounded gamma = outer_exponent(theta[5]);
    for (std::size_t i = 0; i < points_.size(); ++i) {
      const double n = std::log(points_[i].params) - centre_n_;
      const double d = std::log(points_[i].tokens) - centre_d_;
      const double of_model = a.value * std::exp(-alpha.value * n);
      const double of_data = b.value * std::exp(-beta.value * d);
      const double S = of_model + of_data;
      const double power = std::pow(S, gamma.value);
      const double L = power + E.value;
      r[i] = std::log(L) - std::log(points_[i].loss);
      if (J.empty()) continue;
      const double dS = gamma.value * power / (S * L);
      double* row = &J[i * 6];
      row[0] = dS * of_model * a.slope / a.value;
      row[1] = -dS * of_model * alpha.slope * n;
      row[2] = dS * of_data * b.slope / b.value;
      row[3] = -dS * of_data * beta.slope * d;
      row[4] = E.slope / L;
      row[5] = power * std::log(S) * gamma.slope / L;
    }
  }

  ScalingLaw law(std::span<const double> theta) const {
    ScalingLaw law;
    law.alpha = exponent(theta[1]).value;
    law.beta = exponent(theta[3]).value;
    law.A = term(theta[0]).value * std::exp(law.alpha * centre_n_);
    law.B = term(theta[2]).value * std::exp(law.beta * centre_d_);
    law.E = limit(theta[4]).value;
    law.gamma = outer_exponent(theta[5]).value;
    return law;
  }

  /// Starts that agree with the mean loss: E is a share of it, both terms are equal at the centre, and the slopes
  /// alpha gamma = beta gamma are those of common laws.
  std::vector<std::vector<double>> starts() const {
    double mean = 0;
    for (const LossPoint& point : points_) mean += std::log(point.loss);
    mean = std::exp(mean / static_cast<double>(points_.size()));
    std::vector<std::vector<double>> all;
    for (const double share : {0.2, 0.5, 0.8}) {
      for (const double gamma : {0.1, 0.3, 1.0}) {
        const double half = std::log((1 - share) * mean) / gamma - std::log(2.0);
        const double slope = std::log(0.2 / gamma);
        all.push_back({half, slope, half, slope, std::log(share * mean), std::log(gamma)});
      }
    }
    return all;
  }

 private:
  const std::vector<LossPoint>& points_;
  double centre_n_ = 0;
  double centre_d_ = 0;
};

/// Lowers delta step by step: a nearly quadratic objective leads to the region, the true one to the minimum.
HuberFit descend(const Residuals& residuals, std::size_t points, std::vector<double> start) {
  HuberFit fit;
  for (const double factor : {1e3, 1e2, 1e1, 1.0}) {
    fit = minimise_huber(residuals, points, std::move(start), kHuberDelta * factor);
    start = fit.theta;
  }
  return fit;
}

HuberFit best_descent(const Residuals& residuals, std::size_t points, const std::vector<std::vector<double>>& starts) {
  HuberFit best;
  for (const std::vector<double>& start : starts) {
    HuberFit fit = descend(residuals, points, start);
    if (best.theta.empty() || fit.objective < best.objective) best = std::move(fit);
  }
  return best;
}

std::size_t distinct(const std::vector<LossPoint>& points) {
  std::set<std::pair<double, double>> all;
  for (const LossPoint& point : points) all.emplace(point.params, point.tokens);
  return all.size();
}

template <class Get>
std::size_t distinct_by(const std::vector<LossPoint>& points, Get get) {
  std::set<double> all;
  for (const LossPoint& point : points) all.insert(get(point));
  return all.size();
}

constexpr std::size_t kLawPoints = 8;  // two more than constants, or nothing is left to judge the fit by
constexpr std::size_t kLawValues = 3;  // of N and of D: a slope and a bend

bool determine_law(const std::vector<LossPoint>& points, std::size_t least) {
  return distinct(points) >= least && distinct_by(points, [](const LossPoint& p) { return p.params; }) >= kLawValues &&
         distinct_by(points, [](const LossPoint& p) { return p.tokens; }) >= kLawValues;
}

std::size_t efficiency_points(Passes passes) { return passes == Passes::Both ? 2 : 1; }

std::vector<double> residuals_of(const std::vector<LossPoint>& points, const ScalingLaw& law,
                                 const Efficiency& efficiency) {
  std::vector<double> all;
  all.reserve(points.size());
  for (const LossPoint& p : points) {
    all.push_back(std::log(p.loss) - std::log(predict_loss(law, p.params, p.tokens, efficiency)));
  }
  return all;
}

/// As many points as there are, drawn with replacement from the random stream. Draws that can't determine the fit are
/// drawn again; when even many can't, the points themselves are returned.
template <class Usable>
std::vector<LossPoint> resample(const std::vector<LossPoint>& points, const RandomStream& stream, Usable usable) {
  constexpr std::uint64_t kDraws = 1000;
  std::vector<LossPoint> drawn(points.size());
  for (std::uint64_t draw = 0; draw < kDraws; ++draw) {
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      const std::uint64_t word = stream.word(draw * points.size() + i);
      drawn[i] = points[static_cast<std::size_t>(word * points.size() >> 32)];
    }
    if (usable(drawn)) return drawn;
  }
  return points;
}

/// Percentiles 2.5 and 97.5, interpolated between neighbours.
Interval interval_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    if (below == values.size() - 1 || values[below] == values[below + 1]) return values[below];
    return values[below] + (place - static_cast<double>(below)) * (values[below + 1] - values[below]);
  };
  return {at(0.025), at(0.975)};
}

struct Resampled {
  ScalingLaw law;
  std::vector<Efficiency> efficiencies;
};

std::vector<Resampled> bootstrap(const std::vector<LossPoint>& baseline,
                                 const std::vector<std::vector<LossPoint>>& others, const ScalingFit& fit,
                                 bool law_is_fixed) {
  std::vector<Resampled> all(static_cast<std::size_t>(fit.bootstrap));
  parallel_for(fit.bootstrap, 1, [&](std::int64_t begin, std::int64_t) {
    Resampled& one = all[static_cast<std::size_t>(begin)];
    RandomStream stream{fit.seed, static_cast<std::uint32_t>(begin), 0};
    one.law = law_is_fixed ? fit.law : fit_law(resample(baseline, stream, [](const std::vector<LossPoint>& drawn) {
      return determine_law(drawn, law_constants({}).size());
    }));
    for (std::size_t r = 0; r < others.size(); ++r) {
      stream.tensor = static_cast<std::uint32_t>(r + 1);
      const Passes passes = fit.recipes[r].passes;
      const auto usable = [&](const std::vector<LossPoint>& drawn) {
        return distinct(drawn) >= efficiency_points(passes);
      };
      one.efficiencies.push_back(fit_efficiency(resample(others[r], stream, usable), one.law, passes));
    }
  });
  return all;
}

void set_intervals(ScalingFit& fit, const std::vector<std::vector<LossPoint>>& others,
                   const std::vector<Resampled>& all, bool law_is_fixed) {
  const auto interval = [&](auto get) {
    std::vector<double> values;
    values.reserve(all.size());
    for (const Resampled& one : all) values.push_back(get(one));
    return interval_of(std::move(values));
  };
  for (std::size_t c = 0; c < fit.intervals.size() && !law_is_fixed; ++c) {
    fit.intervals[c] = interval([c](const Resampled& one) { return law_constants(one.law)[c]; });
  }
  for (std::size_t r = 0; r < fit.recipes.size(); ++r) {
    RecipeFit& recipe = fit.recipes[r];
    // As many points as unknowns: nothing to resample.
    if (distinct(others[r]) <= efficiency_points(recipe.passes)) continue;
    if (recipe.passes != Passes::BackwardOnly) {
      recipe.n = interval([r](const Resampled& one) { return one.efficiencies[r].n; });
    }
    if (recipe.passes != Passes::ForwardOnly) {
      recipe.d = interval([r](const Resampled& one) { return one.efficiencies[r].d; });
    }
  }
}

template <class Get>
Interval range_of(const std::vector<LossPoint>& points, Get get) {
  Interval range{get(points.front()), get(points.front())};
  for (const LossPoint& point : points) range = {std::min(range.low, get(point)), std::max(range.high, get(point))};
  return range;
}

void check_known(const std::string& name, const std::vector<std::string>& known, const char* what) {
  if (std::find(known.begin(), known.end(), name) != known.end()) return;
  user_error("{} '{}' has no losses here, only {} have{}", what, name, join_names(known), did_you_mean(name, known));
}

Passes passes_of(const std::string& recipe, const FitOptions& options) {
  const auto in = [&](const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), recipe) != names.end();
  };
  if (in(options.forward_only) && in(options.backward_only)) {
    user_error("the recipe '{}' can't be both forward-only and backward-only: leave one out", recipe);
  }
  return in(options.forward_only)    ? Passes::ForwardOnly
         : in(options.backward_only) ? Passes::BackwardOnly
                                     : Passes::Both;
}

void fit_baseline(ScalingFit& fit, const std::vector<LossPoint>& baseline) {
  if (!determine_law(baseline, kLawPoints)) {
    user_error(
        "the runs of '{}' have {} different (N, D), {} different N and {} different D, too few to determine the law's "
        "six "
        "constants (8, 3 and 3 are needed): add runs, or fix the law with --law quartet",
        fit.baseline, distinct(baseline), distinct_by(baseline, [](const LossPoint& p) { return p.params; }),
        distinct_by(baseline, [](const LossPoint& p) { return p.tokens; }));
  }
  fit.law = fit_law(baseline);
  fit.points = static_cast<std::int64_t>(baseline.size());
  fit.params = range_of(baseline, [](const LossPoint& p) { return p.params; });
  fit.tokens = range_of(baseline, [](const LossPoint& p) { return p.tokens; });
  fit.rms = rms_residual(baseline, fit.law);
  fit.objective = huber_objective(baseline, fit.law);
}

}  // namespace

const RecipeFit& ScalingFit::recipe(const std::string& name) const {
  std::vector<std::string> known;
  for (const RecipeFit& fit : recipes) {
    if (fit.recipe == name) return fit;
    known.push_back(fit.recipe);
  }
  user_error("the law has no recipe '{}' among {}{}", name, join_names(known), did_you_mean(name, known));
}

double huber_objective(const std::vector<LossPoint>& points, const ScalingLaw& law, const Efficiency& efficiency) {
  double sum = 0;
  for (double r : residuals_of(points, law, efficiency)) sum += huber(r, kHuberDelta);
  return sum;
}

double rms_residual(const std::vector<LossPoint>& points, const ScalingLaw& law, const Efficiency& efficiency) {
  double sum = 0;
  for (double r : residuals_of(points, law, efficiency)) sum += r * r;
  return std::sqrt(sum / static_cast<double>(points.size()));
}

ScalingLaw fit_law(const std::vector<LossPoint>& points) {
  const CentredLaw model(points);
  const auto residuals = [&](std::span<const double> theta, std::span<double> r, std::span<double> J) {
    model.residuals(theta, r, J);
  };
  return model.law(best_descent(residuals, points.size(), model.starts()).theta);
}

Efficiency fit_efficiency(const std::vector<LossPoint>& points, const ScalingLaw& law, Passes passes) {
  const bool has_n = passes != Passes::BackwardOnly;
  const bool has_d = passes != Passes::ForwardOnly;
  const std::size_t count = (has_n ? 1 : 0) + (has_d ? 1 : 0);
  const auto efficiency = [&](std::span<const double> theta) {
    return Efficiency{has_n ? efficiency_of(theta[0]).value : 1.0, has_d ? efficiency_of(theta[count - 1]).value : 1.0};
  };
  const auto residuals = [&](std::span<const double> theta, std::span<double> r, std::span<double> J) {
    const Efficiency e = efficiency(theta);
    for (std::size_t i = 0; i < points.size(); ++i) {
      const double of_model = law.A * std::pow(points[i].params * e.n, -law.alpha);
      const double of_data = law.B * std::pow(points[i].tokens * e.d, -law.beta);
      const double power = std::pow(of_model + of_data, law.gamma);
      const double L = power + law.E;
      r[i] = std::log(L) - std::log(points[i].loss);
      if (J.empty()) continue;
      const double dS = law.gamma * power / ((of_model + of_data) * L);
      // d log eff / d theta is 1 inside the bounds and 0 outside.
      if (has_n) J[i * count] = -dS * law.alpha * of_model * efficiency_of(theta[0]).slope / e.n;
      if (has_d) J[i * count + count - 1] = -dS * law.beta * of_data * efficiency_of(theta[count - 1]).slope / e.d;
    }
  };
  std::vector<std::vector<double>> starts;
  for (const double n : {0.0, -1.0}) {
    for (const double d : {0.0, -1.0}) {
      if (count == 2) starts.push_back({n, d});
    }
    if (count == 1) starts.push_back({n});
  }
  return efficiency(best_descent(residuals, points.size(), starts).theta);
}

ScalingFit fit_scaling(const std::vector<LossPoint>& points, const FitOptions& options) {
  const std::vector<std::string> known = recipes_of(points);
  if (points.empty()) user_error("there are no losses to fit: give finished runs or tables with rows");
  for (const std::vector<std::string>& names : {options.forward_only, options.backward_only}) {
    for (const std::string& name : names) check_known(name, known, "the recipe");
  }
  ScalingFit fit;
  if (options.law) {
    fit = *options.law;
    fit.recipes.clear();
  }
  fit.baseline = options.baseline;
  fit.bootstrap = options.bootstrap;
  fit.seed = options.seed;
  const std::vector<LossPoint> baseline = points_of(points, options.baseline);
  // Under a fixed law the baseline needs no runs here, but a name that neither law nor runs know is a mistake.
  if (!options.law || options.baseline != options.law->baseline) check_known(options.baseline, known, "the baseline");
  if (!options.law) fit_baseline(fit, baseline);
  std::vector<std::vector<LossPoint>> others;
  for (const std::string& name : known) {
    if (name == options.baseline) continue;
    others.push_back(points_of(points, name));
    RecipeFit recipe;
    recipe.recipe = name;
    recipe.passes = passes_of(name, options);
    if (distinct(others.back()) < efficiency_points(recipe.passes)) {
      user_error(
          "the recipe '{}' has losses at one (N, D) only, which can't determine both effN and effD: add runs, or say "
          "which one it has with --forward-only or --backward-only",
          name);
    }
    recipe.efficiency = fit_efficiency(others.back(), fit.law, recipe.passes);
    recipe.points = static_cast<std::int64_t>(others.back().size());
    recipe.rms = rms_residual(others.back(), fit.law, recipe.efficiency);
    fit.recipes.push_back(std::move(recipe));
  }
  const bool fixed = options.law.has_value();
  set_intervals(fit, others, bootstrap(baseline, others, fit, fixed), fixed);
  return fit;
}

}  // namespace nibble
