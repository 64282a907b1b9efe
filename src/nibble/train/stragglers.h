// Stragglers: which rank the others wait for. A rank's own time of a step is what it took without the time in which it
// waited for others (Communicator::waited), so it tells ranks apart though all of them finish a step together.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nibble {

/// The spread of the ranks' own times of a step, in seconds; key "rank_seconds" of metrics.jsonl.
struct RankSeconds {
  double min = 0;
  double median = 0;  ///< of an even number the lower of the two in the middle: of two ranks, the faster
  double max = 0;
  int slowest = 0;  ///< the rank of max, the lowest if there are several
};
/// Of at least one rank.
RankSeconds spread_of(std::span<const double> seconds);

/// Says which rank is slow: once, and again only after it kept up in between.
///
///   t_r      median of rank r's own times over a window of kWindow steps: one slow step is no straggler
///   t_m      the median of all t_r, of rank m
///   ratio    t_r / t_m / max(1, passes_r / passes_m): who has more micro-batches of a step may take longer
///
/// A rank is named when its ratio reaches kSlow, and has caught up when it falls below kCaughtUp; windows follow each
/// other without overlap.
class Stragglers {
 public:
  static constexpr std::size_t kWindow = 16;
  static constexpr double kSlow = 1.2;  ///< ranks on hosts of one kind differ by some per cent
  static constexpr double kCaughtUp = 1.1;

  /// The host and the passes of a step of each rank.
  Stragglers(std::vector<std::string> hosts, std::vector<std::int64_t> passes);
  /// What is to be said after a step, of which each rank's own time is given; mostly nothing:
  ///   "rank 3 (node7) takes 1.31 x the median step: 0.52 s of its own, the median is 0.40 s (over 16 steps)"
  ///   "rank 3 (node7) keeps up again"
  std::vector<std::string> after_step(std::span<const double> seconds);

 private:
  struct Rank {
    std::string host;
    std::int64_t passes = 0;
    std::vector<double> window;
    bool named = false;
  };
  std::vector<Rank> ranks_;
};

}  // namespace nibble
