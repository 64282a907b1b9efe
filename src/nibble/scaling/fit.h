// Fits the scaling law of law.h to losses.
//
// The baseline's runs determine A, alpha, B, beta, E and gamma, with effN = effD = 1; for every other recipe effN and
// effD are fitted with these constants fixed. Both fits minimise the sum of Huber losses (delta = 1e-4) of log L - log
// predict_loss, as Hoffmann et al. 2022 (approach 3; there delta = 1e-3) and Castro et al. 2025 do.
//
// Intervals are 95 % percentile bootstrap intervals (Efron 1979): both fits are repeated on runs drawn with replacement
// from the baseline's and from the recipe's, so the interval of effN and effD includes what is not known about the law.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "nibble/scaling/law.h"
#include "nibble/scaling/points.h"

namespace nibble {

inline constexpr double kHuberDelta = 1e-4;

/// effN and effD are sought between this and its inverse: beyond, a term of the law no longer shows in the loss.
inline constexpr double kLeastEfficiency = 1e-6;
/// E where the losses show no limit.
inline constexpr double kLeastLimit = 1e-6;

/// NaN where nothing was resampled, or where there are only as many points as unknowns.
struct Interval {
  double low = std::numeric_limits<double>::quiet_NaN();
  double high = std::numeric_limits<double>::quiet_NaN();
  bool known() const { return std::isfinite(low) && std::isfinite(high) && low <= high; }
};

/// Which of effN and effD a recipe has; the others stay 1.
enum class Passes : std::uint8_t { Both, ForwardOnly, BackwardOnly };

struct RecipeFit {
  std::string recipe;
  Passes passes = Passes::Both;
  Efficiency efficiency;
  Interval n, d;
  std::int64_t points = 0;
  double rms = 0;  ///< of the residuals of log L: about the relative error of the loss
};

struct ScalingFit {
  std::string title;   ///< of a law file; may be empty
  std::string source;  ///< where a published law comes from; may be empty
  std::string baseline = "bf16";
  ScalingLaw law;
  std::array<Interval, 6> intervals;  ///< in the order of kLawConstantNames
  std::int64_t points = 0;            ///< of the baseline
  double rms = 0;
  double objective = 0;     ///< sum of the Huber losses of the baseline's residuals
  Interval params, tokens;  ///< the ranges that the baseline's runs cover
  std::int64_t bootstrap = 0;
  std::uint64_t seed = 0;
  std::vector<RecipeFit> recipes;

  /// UserError naming the recipes that there are.
  const RecipeFit& recipe(const std::string& name) const;
};

struct FitOptions {
  std::string baseline = "bf16";
  std::optional<ScalingFit> law;            ///< fixed constants instead of a fit to the baseline
  std::vector<std::string> forward_only{};  ///< recipes that leave the backward pass alone: effD = 1
  std::vector<std::string> backward_only{};
  std::int64_t bootstrap = 200;  ///< resamples; 0: no intervals
  std::uint64_t seed = 1;
};

/// The same points and options give the same figures on any number of threads. UserError for a baseline or recipe
/// without points and for points that can't determine what is asked of them: six constants need eight different (N, D)
/// with three different N and three different D; effN and effD need two, one of them alone needs one.
ScalingFit fit_scaling(const std::vector<LossPoint>& points, const FitOptions& options);

/// The two fits by themselves.
ScalingLaw fit_law(const std::vector<LossPoint>& points);
Efficiency fit_efficiency(const std::vector<LossPoint>& points, const ScalingLaw& law, Passes passes);

/// Sum of Huber losses, and root mean square, of log L - log predict_loss.
double huber_objective(const std::vector<LossPoint>& points, const ScalingLaw& law, const Efficiency& efficiency = {});
double rms_residual(const std::vector<LossPoint>& points, const ScalingLaw& law, const Efficiency& efficiency = {});

}  // namespace nibble
