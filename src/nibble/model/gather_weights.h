// How long ranks that share the values of matrices (ZeRO-3) keep what they gathered: train.gather.
#pragma once

#include <cstdint>

namespace nibble {

enum class GatherWeights : std::uint8_t {
  Block,  ///< while the block is at work, in the forward and again in the backward of every pass, the next on its way
  Step,   ///< for all passes of the step
};

}  // namespace nibble
