#include "nibble/train/stragglers.h"

#include <algorithm>

#include "nibble/tensor/error.h"

namespace nibble {

namespace {

/// Where the median is, the lower of the two in the middle.
std::size_t median_at(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto middle = order.begin() + static_cast<std::ptrdiff_t>((order.size() - 1) / 2);
  std::nth_element(order.begin(), middle, order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  return *middle;
}

}  // namespace

RankSeconds spread_of(std::span<const double> seconds) {
  require(!seconds.empty(), "the spread of no ranks");
  const auto max = std::max_element(seconds.begin(), seconds.end());
  return {*std::min_element(seconds.begin(), seconds.end()), seconds[median_at(seconds)], *max,
          static_cast<int>(max - seconds.begin())};
}

Stragglers::Stragglers(std::vector<std::string> hosts, std::vector<std::int64_t> passes) {
  require(hosts.size() == passes.size(), "{} hosts and {} numbers of passes", hosts.size(), passes.size());
  for (std::size_t r = 0; r < hosts.size(); ++r) {
    ranks_.push_back({std::move(hosts[r]), std::max<std::int64_t>(passes[r], 1), {}, false});
  }
}

std::vector<std::string> Stragglers::after_step(std::span<const double> seconds) {
  require(seconds.size() == ranks_.size(), "times of {} ranks instead of {}", seconds.size(), ranks_.size());
  std::vector<std::string> sentences;
  if (ranks_.empty()) return sentences;
  for (std::size_t r = 0; r < ranks_.size(); ++r) ranks_[r].window.push_back(seconds[r]);
  if (ranks_[0].window.size() < kWindow) return sentences;
  std::vector<double> typical;
  for (Rank& rank : ranks_) {
    typical.push_back(rank.window[median_at(rank.window)]);
    rank.window.clear();
  }
  const std::size_t middle = median_at(typical);
  if (!(typical[middle] > 0)) return sentences;
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    Rank& rank = ranks_[r];
    const double share = static_cast<double>(rank.passes) / static_cast<double>(ranks_[middle].passes);
    const double ratio = typical[r] / typical[middle] / std::max(1.0, share);
    if (!rank.named && ratio >= kSlow) {
      rank.named = true;
      sentences.push_back(
          fmt::format("rank {} ({}) takes {:.2f} x the median step: {:.3g} s of its own, the median is {:.3g} s (over "
                      "{} steps)",
                      r, rank.host, ratio, typical[r], typical[middle], kWindow));
    } else if (rank.named && ratio < kCaughtUp) {
      rank.named = false;
      sentences.push_back(fmt::format("rank {} ({}) keeps up again", r, rank.host));
    }
  }
  return sentences;
}

}  // namespace nibble
