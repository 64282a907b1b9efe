#include "nibble/scaling/huber.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "nibble/tensor/error.h"

namespace nibble {

namespace {

/// Solves H x = b in place (b becomes x) by Cholesky factorisation; H is [p, p], symmetric and positive definite.
void solve(std::vector<double>& H, std::vector<double>& b) {
  const std::size_t p = b.size();
  for (std::size_t j = 0; j < p; ++j) {
    for (std::size_t i = j; i < p; ++i) {
      double sum = H[i * p + j];
      for (std::size_t k = 0; k < j; ++k) sum -= H[i * p + k] * H[j * p + k];
      // Rounding may take a pivot of an almost singular matrix below zero: that direction is then left alone.
      if (i == j) {
        H[j * p + j] = sum > 0 ? std::sqrt(sum) : std::numeric_limits<double>::infinity();
      } else {
        H[i * p + j] = sum / H[j * p + j];
      }
    }
  }
  for (std::size_t i = 0; i < p; ++i) {
    for (std::size_t k = 0; k < i; ++k) b[i] -= H[i * p + k] * b[k];
    b[i] /= H[i * p + i];
  }
  for (std::size_t i = p; i-- > 0;) {
    for (std::size_t k = i + 1; k < p; ++k) b[i] -= H[k * p + i] * b[k];
    b[i] /= H[i * p + i];
  }
}

double objective(std::span<const double> residuals, double delta) {
  double sum = 0;
  for (double r : residuals) sum += huber(r, delta);
  return sum;
}

/// The convex model of F around one theta.
class LinearisedHuber {
 public:
  LinearisedHuber(const std::vector<double>& r, const std::vector<double>& J, const std::vector<double>& penalty,
                  double delta)
      : r_(r), J_(J), penalty_(penalty), delta_(delta) {}

  /// Newton's method with exact line searches: the set of residuals within delta changes from step to step as the
  /// active set of a linear programme does.
  std::vector<double> minimise() const {
    const std::size_t m = r_.size();
    const std::size_t p = penalty_.size();
    std::vector<double> s(p, 0.0);
    std::vector<double> u = r_;  // r + J s
    std::vector<double> Jd(m);
    const double tolerance = 1e-16 * objective(r_, delta_);
    for (std::size_t iteration = 0; iteration < 10 * (m + p); ++iteration) {
      std::vector<double> gradient(p, 0.0);
      std::vector<double> H(p * p, 0.0);
      for (std::size_t i = 0; i < m; ++i) {
        const double* row = &J_[i * p];
        const double slope = std::clamp(u[i], -delta_, delta_);
        for (std::size_t j = 0; j < p; ++j) gradient[j] += row[j] * slope;
        if (std::abs(u[i]) > delta_) continue;
        for (std::size_t j = 0; j < p; ++j) {
          for (std::size_t k = 0; k <= j; ++k) H[j * p + k] += row[j] * row[k];
        }
      }
      for (std::size_t j = 0; j < p; ++j) {
        gradient[j] += penalty_[j] * s[j];
        H[j * p + j] += penalty_[j];
      }
      std::vector<double> d(p);
      for (std::size_t j = 0; j < p; ++j) d[j] = -gradient[j];
      solve(H, d);
      for (std::size_t i = 0; i < m; ++i) {
        Jd[i] = 0;
        for (std::size_t j = 0; j < p; ++j) Jd[i] += J_[i * p + j] * d[j];
      }
      double slope = 0;
      for (std::size_t j = 0; j < p; ++j) slope += gradient[j] * d[j];
      if (!(slope < -tolerance)) break;
      const double t = line_minimum(u, Jd, s, d);
      if (!(t > 0)) break;
      for (std::size_t j = 0; j < p; ++j) s[j] += t * d[j];
      for (std::size_t i = 0; i < m; ++i) u[i] += t * Jd[i];
    }
    return s;
  }

  double value(const std::vector<double>& s) const {
    const std::size_t p = penalty_.size();
    double sum = 0;
    for (std::size_t i = 0; i < r_.size(); ++i) {
      double u = r_[i];
      for (std::size_t j = 0; j < p; ++j) u += J_[i * p + j] * s[j];
      sum += huber(u, delta_);
    }
    return sum;
  }

 private:
  /// The t > 0 where the derivative along d, which grows piecewise linearly, is zero.
  double line_minimum(const std::vector<double>& u, const std::vector<double>& Jd, const std::vector<double>& s,
                      const std::vector<double>& d) const {
    const auto derivative = [&](double t) {
      double sum = 0;
      for (std::size_t i = 0; i < u.size(); ++i) sum += Jd[i] * std::clamp(u[i] + t * Jd[i], -delta_, delta_);
      for (std::size_t j = 0; j < s.size(); ++j) sum += penalty_[j] * (s[j] + t * d[j]) * d[j];
      return sum;
    };
    double low = 0;
    double high = 1;
    double at_low = derivative(0);
    double at_high = derivative(1);
    if (at_high <= 0) return 1;  // Newton's step ends where its quadratic form holds
    for (int i = 0; i < 60 && high - low > 1e-14 * high; ++i) {
      double t = low + (high - low) * (-at_low / (at_high - at_low));
      // Every other step halves the interval, so a kink can't stall the search.
      if (i % 2 == 1 || !(t > low && t < high)) t = (low + high) / 2;
      const double at_t = derivative(t);
      if (at_t == 0) return t;
      (at_t < 0 ? low : high) = t;
      (at_t < 0 ? at_low : at_high) = at_t;
    }
    return (low + high) / 2;
  }

  const std::vector<double>& r_;
  const std::vector<double>& J_;
  const std::vector<double>& penalty_;
  double delta_;
};

}  // namespace

double huber(double residual, double delta) {
  const double size = std::abs(residual);
  return size <= delta ? residual * residual / 2 : delta * (size - delta / 2);
}

HuberFit minimise_huber(const Residuals& residuals, std::size_t points, std::vector<double> start, double delta,
                        int max_steps) {
  require(points > 0 && !start.empty() && delta > 0, "nothing to fit: {} points, {} parameters, delta {}", points,
          start.size(), delta);
  const std::size_t p = start.size();
  HuberFit fit;
  fit.theta = std::move(start);
  std::vector<double> r(points);
  std::vector<double> J(points * p);
  std::vector<double> scale(p, 0.0);
  residuals(fit.theta, r, J);
  fit.objective = objective(r, delta);
  double lambda = 1e-2;
  std::vector<double> trial_r(points);
  std::vector<double> trial(p);
  for (fit.steps = 0; fit.steps < max_steps && !fit.converged; ++fit.steps) {
    std::vector<double> penalty(p);
    for (std::size_t j = 0; j < p; ++j) {
      double sum = 0;
      for (std::size_t i = 0; i < points; ++i) {
        sum += J[i * p + j] * J[i * p + j] * delta / std::max(std::abs(r[i]), delta);
      }
      scale[j] = std::max(0.9 * scale[j], sum);
      penalty[j] = lambda * (scale[j] > 0 ? scale[j] : 1);
    }
    const LinearisedHuber model(r, J, penalty, delta);
    const std::vector<double> step = model.minimise();
    const double expected = fit.objective - model.value(step);
    for (std::size_t j = 0; j < p; ++j) trial[j] = fit.theta[j] + step[j];
    residuals(trial, trial_r, {});
    const double trial_objective = objective(trial_r, delta);
    const double gained = fit.objective - trial_objective;
    if (!(expected > 1e-13 * fit.objective)) {
      if (lambda < 1e-9 || fit.objective == 0) {
        fit.converged = true;
        break;
      }
      lambda *= 1e-3;
      continue;
    }
    if (gained > 0) {
      fit.theta = trial;
      residuals(fit.theta, r, J);
      fit.objective = trial_objective;
    }
    if (gained > 0.75 * expected) {
      lambda = std::max(lambda / 5, 1e-15);
    } else if (!(gained > 0.25 * expected)) {
      lambda *= 4;
      if (lambda > 1e12) fit.converged = true;
    }
  }
  return fit;
}

}  // namespace nibble
