#include "nibble/eval/log_likelihood.h"

#include <algorithm>
#include <numeric>

namespace nibble {

std::vector<Score> LlamaLikelihood::score(std::span<const Request> requests, bool greedy) {
  std::vector<std::vector<std::int32_t>> inputs;
  for (const Request& request : requests) inputs.push_back(request.input);
  const PackedSequences packed = pack_sequences(inputs);
  std::vector<TokenQuery> queries;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const std::vector<std::int32_t>& targets = requests[r].targets;
    const std::vector<std::int32_t>& rows = packed.rows[r];
    for (std::size_t i = 0; i < targets.size(); ++i) {
      queries.push_back({rows[rows.size() - targets.size() + i], targets[i]});
    }
  }
  const std::vector<TokenScore> tokens = model_.score(packed, queries, greedy);
  std::vector<Score> scores;
  std::size_t next = 0;
  for (const Request& request : requests) {
    Score score{0, greedy};
    for (std::size_t i = 0; i < request.targets.size(); ++i, ++next) {
      score.log_likelihood += static_cast<double>(tokens[next].log_probability);
      score.greedy = score.greedy && tokens[next].greedy;
    }
    scores.push_back(score);
  }
  return scores;
}

std::vector<std::vector<std::size_t>> plan_passes(std::span<const Request> requests,
                                                  std::span<const std::size_t> groups, std::int64_t tokens) {
  // A sequence that is the beginning of another comes after it, so that it takes nothing of its own.
  std::vector<std::size_t> order(requests.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return groups[a] != groups[b] ? groups[a] < groups[b] : requests[a].input > requests[b].input;
  });
  struct Group {
    std::vector<std::size_t> members;
    std::size_t longest = 0;
    std::size_t tokens = 0;
  };
  std::vector<Group> all;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::vector<std::int32_t>& input = requests[order[i]].input;
    std::size_t shared = 0;
    if (i == 0 || groups[order[i]] != groups[order[i - 1]]) {
      all.emplace_back();
    } else {
      const std::vector<std::int32_t>& before = requests[order[i - 1]].input;
      const auto end = std::mismatch(input.begin(), input.end(), before.begin(), before.end());
      shared = static_cast<std::size_t>(end.first - input.begin());
    }
    Group& group = all.back();
    group.members.push_back(order[i]);
    group.longest = std::max(group.longest, input.size());
    group.tokens += input.size() - shared;
  }
  std::stable_sort(all.begin(), all.end(), [](const Group& a, const Group& b) { return a.longest > b.longest; });
  std::vector<std::vector<std::size_t>> passes;
  std::size_t filled = 0;
  for (const Group& group : all) {
    if (passes.empty() || filled + group.tokens > static_cast<std::size_t>(tokens)) {
      passes.emplace_back();
      filled = 0;
    }
    passes.back().insert(passes.back().end(), group.members.begin(), group.members.end());
    filled += group.tokens;
  }
  return passes;
}

}  // namespace nibble
