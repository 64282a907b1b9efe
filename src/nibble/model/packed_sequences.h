// Sequences that go through the model together: tokens that two neighbours begin with in common are computed once, and
// no token of padding is computed at all.
//
//   sequences      a b c d      tokens   a b c d | e | f g        Linear layers, norms and SwiGLU see these 7 rows.
//                  a b e        at       0 1 2 3                  Attention sees whole sequences, gathered by `at`;
//                  what f g                   0 1 4 4                  stands at the right end of a shorter one is
//                  padding,
//                                        5 6 6 6                  which the causal mask keeps from being seen.
//
// Under a causal mask a token's activations depend on the tokens before it alone, so a shared beginning is the same
// computation. Where a recipe's scales span several tokens (a per-tensor scale of X), they span the tokens of the pack.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble {

struct PackedSequences {
  std::int64_t sequences = 0;
  std::int64_t seq = 0;              ///< tokens of the longest
  std::vector<std::int32_t> tokens;  ///< [n] ids
  std::vector<std::int32_t> at;      ///< [sequences * seq] which token stands there
  std::vector<std::int32_t> place;   ///< [n] a place in `at` where the token stands, its own and no padding
  /// For each sequence that was given, which tokens it is made of.
  std::vector<std::vector<std::int32_t>> rows;
};

/// Packs the sequences, none of them empty. What a sequence shares with the one before it is shared; so put together
/// what begins alike. One that is wholly the beginning of the one before it takes no row in attention either.
PackedSequences pack_sequences(std::span<const std::vector<std::int32_t>> sequences);

/// A token to be scored: the logits that follow token `row` of the pack.
struct TokenQuery {
  std::int32_t row = 0;
  std::int32_t target = 0;
};

struct TokenScore {
  float log_probability = 0;  ///< log softmax(logits)[target], nats
  bool greedy = false;        ///< the target is the first of the largest logits; false where nobody asked
};

}  // namespace nibble
