// Batches of which only completions count, for the tests of either backend.
#pragma once

#include <random>
#include <vector>

#include "nibble/model/llama.h"

namespace nibble::testing_support {

struct MaskedBatch {
  std::int64_t sequences = 0;
  std::vector<std::int32_t> tokens, targets;

  Llama::Batch batch() { return of(0, sequences); }
  /// Sequences [begin, end).
  Llama::Batch of(std::int64_t begin, std::int64_t end) {
    const auto seq = static_cast<std::int64_t>(tokens.size()) / sequences;
    return {Tensor::of(tokens.data() + begin * seq, {end - begin, seq}),
            Tensor::of(targets.data() + begin * seq, {end - begin, seq})};
  }
  std::int64_t counted() const {
    std::int64_t n = 0;
    for (const std::int32_t target : targets) n += target >= 0;
    return n;
  }
};

/// Random tokens; in each sequence the targets of one stretch count. The last sequence has none where
/// `last_is_context`.
inline MaskedBatch masked_batch(const LlamaConfig& c, std::int64_t sequences, std::uint32_t seed,
                                bool last_is_context = false) {
  std::mt19937 rng(seed);
  const auto token = [&] { return static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab)); };
  MaskedBatch b;
  b.sequences = sequences;
  for (std::int64_t s = 0; s < sequences; ++s) {
    const auto begin = static_cast<std::int64_t>(rng() % static_cast<std::uint32_t>(c.seq - 1));
    const std::int64_t end = begin + 1 + static_cast<std::int64_t>(rng() % static_cast<std::uint32_t>(c.seq - begin));
    for (std::int64_t i = 0; i < c.seq; ++i) {
      b.tokens.push_back(token());
      const bool counted = i >= begin && i < end && !(last_is_context && s + 1 == sequences);
      const std::int32_t target = token();
      b.targets.push_back(counted ? target : -1);
    }
  }
  return b;
}

}  // namespace nibble::testing_support
