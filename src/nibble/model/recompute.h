// What the backward of a block computes again instead of keeping it from the forward (Chen et al. 2016; Korthikanti et
// al. 2022).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace nibble {

/// Results are the same bits at every level: what is computed again has the forward's inputs and random numbers.
enum class Recompute : std::uint8_t {
  None,        ///< everything that the backward reads is kept
  BlockParts,  ///< the inputs of linear layers, where the backward reads them, from their norm or SwiGLU
  Block,       ///< everything of a block, from the residual stream at its input; the last block is kept
};

/// As settings and commands call them.
inline const std::vector<std::pair<const char*, Recompute>> kRecomputeNames = {
    {"none", Recompute::None}, {"block-parts", Recompute::BlockParts}, {"block", Recompute::Block}};
inline const char* recompute_name(Recompute level) { return kRecomputeNames[static_cast<std::size_t>(level)].first; }

}  // namespace nibble
