#include "nibble/eval/bootstrap.h"

#include <cmath>
#include <limits>
#include <vector>

#include "nibble/tensor/parallel.h"

namespace nibble {

namespace {

constexpr std::int64_t kRound = 1000;

/// init_by_array of the reference implementation for a key of one word, in the form of a seed sequence.
class InitByArray {
 public:
  using result_type = std::uint32_t;
  explicit InitByArray(std::uint32_t key) : key_(key) {}

  template <class Iterator>
  void generate(Iterator begin, Iterator end) const {
    const auto n = static_cast<std::uint32_t>(end - begin);
    begin[0] = 19650218u;
    for (std::uint32_t i = 1; i < n; ++i) begin[i] = 1812433253u * mixed(begin[i - 1]) + i;
    std::uint32_t i = 1;
    const auto advance = [&] {
      if (++i < n) return;
      begin[0] = begin[n - 1];
      i = 1;
    };
    for (std::uint32_t k = 0; k < n; ++k) {
      begin[i] = (begin[i] ^ (mixed(begin[i - 1]) * 1664525u)) + key_;
      advance();
    }
    for (std::uint32_t k = 0; k + 1 < n; ++k) {
      begin[i] = (begin[i] ^ (mixed(begin[i - 1]) * 1566083941u)) - i;
      advance();
    }
    begin[0] = 0x80000000u;
  }

 private:
  static std::uint32_t mixed(std::uint32_t word) { return word ^ (word >> 30); }
  std::uint32_t key_;
};

std::mt19937 seeded(std::uint32_t seed) {
  InitByArray sequence(seed);
  return std::mt19937(sequence);
}

}  // namespace

PythonRandom::PythonRandom(std::uint32_t seed) : generator_(seeded(seed)) {}

double PythonRandom::uniform() {
  const auto high = static_cast<double>(generator_() >> 5);
  const auto low = static_cast<double>(generator_() >> 6);
  return (high * 67108864.0 + low) / 9007199254740992.0;  // (high * 2^26 + low) / 2^53
}

double bootstrap_perplexity_error(std::span<const double> log_likelihoods, std::int64_t iterations) {
  if (log_likelihoods.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  const auto n = static_cast<double>(log_likelihoods.size());
  const std::int64_t rounds = iterations / kRound;
  std::vector<double> perplexities(static_cast<std::size_t>(rounds * kRound));
  parallel_for(rounds, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t round = begin; round < end; ++round) {
      PythonRandom random(static_cast<std::uint32_t>(round));
      for (std::int64_t r = 0; r < kRound; ++r) {
        double sum = 0;
        for (std::size_t i = 0; i < log_likelihoods.size(); ++i) {
          sum += log_likelihoods[static_cast<std::size_t>(random.uniform() * n)];
        }
        perplexities[static_cast<std::size_t>(round * kRound + r)] = std::exp(-sum / n);
      }
    }
  });
  double sum = 0;
  for (const double value : perplexities) sum += value;
  const double mean = sum / static_cast<double>(perplexities.size());
  double squares = 0;
  for (const double value : perplexities) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / static_cast<double>(perplexities.size() - 1));
}

}  // namespace nibble
