// Robust non-linear regression: minimises  F(theta) = sum_i h(r_i(theta)),  with Huber's loss (Huber 1964)
//
//   h(r) = r^2 / 2 where |r| <= delta, delta (|r| - delta / 2) elsewhere.
//
// For a delta far below the usual residual F is close to a sum of absolute values: its minimum lies where about as many
// residuals vanish as there are parameters, and methods that model F by one quadratic form (Levenberg-Marquardt,
// quasi-Newton) creep towards it. So each step here linearises r only and minimises the convex, piecewise quadratic
//
//   sum_i h(r_i + J_i s) + lambda / 2 sum_j (c_j s_j)^2
//
// to the end; lambda is controlled as in Levenberg-Marquardt.
#pragma once

#include <functional>
#include <span>
#include <vector>

namespace nibble {

/// Writes the residuals r [m] and, unless `jacobian` is empty, dr_i / dtheta_j [m, p] by rows.
using Residuals =
    std::function<void(std::span<const double> theta, std::span<double> residuals, std::span<double> jacobian)>;

struct HuberFit {
  std::vector<double> theta;
  double objective = 0;  ///< F(theta)
  int steps = 0;
  bool converged = false;  ///< no step lowers F by a relevant amount
};

double huber(double residual, double delta);

/// A minimum of F near `start`. `points` is m; one call evaluates the residuals at most `max_steps` times.
HuberFit minimise_huber(const Residuals& residuals, std::size_t points, std::vector<double> start, double delta,
                        int max_steps = 200);

}  // namespace nibble
