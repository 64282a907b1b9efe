// What scores requests: a model behind one function.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nibble/eval/request.h"
#include "nibble/model/llama.h"

namespace nibble {

struct Score {
  double log_likelihood = 0;  ///< sum over the targets, nats
  bool greedy = false;        ///< each target is the likeliest token where it stands; false where nobody asked
  friend bool operator==(const Score&, const Score&) = default;
};

class LogLikelihood {
 public:
  virtual ~LogLikelihood() = default;
  /// The scores of requests that are computed together, in their order. `greedy`: whether that flag is wanted too.
  virtual std::vector<Score> score(std::span<const Request> requests, bool greedy) = 0;
};

/// A Llama whose weights are prepared. Requests are packed (model/packed_sequences.h): what two of them begin with in
/// common is computed once, and the head is applied where a target stands alone.
class LlamaLikelihood final : public LogLikelihood {
 public:
  explicit LlamaLikelihood(Llama& model) : model_(model) {}
  std::vector<Score> score(std::span<const Request> requests, bool greedy) override;

 private:
  Llama& model_;
};

/// Requests cut into passes of about `tokens` input tokens each, shared beginnings not counted twice. `groups[i]` says
/// which item request i belongs to: items stay together, for their requests begin alike, and the longest come first, so
/// that a pass holds like lengths and the estimate of the time is not too low. Each pass lists indices of requests, in
/// the order in which neighbours share the most. Depends on its arguments alone.
std::vector<std::vector<std::size_t>> plan_passes(std::span<const Request> requests,
                                                  std::span<const std::size_t> groups, std::int64_t tokens);

}  // namespace nibble
