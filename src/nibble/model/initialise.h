// Initial weights.
#pragma once

#include <vector>

#include "nibble/model/llama.h"

namespace nibble {

/// Matrices N(0, init_std^2), the two output projections of a block (attention.output, mlp.down) with
/// init_std / sqrt(2 layers), norms 1, biases 0. A weight is a function of (seed, parameter, element) alone.
void initialise_parameters(const LlamaConfig& config, std::vector<Parameter>& parameters, std::uint64_t seed);

}  // namespace nibble
