// Standard error of perplexity by resampling, draw for draw as lm-evaluation-harness does it (api/metrics.py,
// bootstrap_stderr): in rounds of 1000 resamples, round i takes its draws from Python's random.Random(i).choices, and
// the result is the sample standard deviation of exp(-mean) over all resamples.
//
// random.Random is the Mersenne Twister MT19937 (Matsumoto & Nishimura 1998), seeded through init_by_array with the
// words of the seed; random() joins two outputs to 53 bits, choices takes floor(n * random()).
#pragma once

#include <cstdint>
#include <random>
#include <span>

namespace nibble {

class PythonRandom {
 public:
  explicit PythonRandom(std::uint32_t seed);
  /// Uniform in [0, 1), as random.random().
  double uniform();

 private:
  std::mt19937 generator_;
};

/// Resamples that the harness takes where nothing else is said.
inline constexpr std::int64_t kBootstrapIterations = 100'000;

/// `iterations` is rounded down to whole rounds. NaN of fewer than two values.
double bootstrap_perplexity_error(std::span<const double> log_likelihoods,
                                  std::int64_t iterations = kBootstrapIterations);

}  // namespace nibble
