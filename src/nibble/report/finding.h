// What the numbers of a comparison say, in sentences that claim no more than the numbers do.
#pragma once

#include <string>

#include "nibble/report/summary.h"

namespace nibble {

struct Finding {
  std::string headline;  ///< one sentence
  std::string verdict;   ///< how far it can be trusted: noise, ties, divergence, unequal lengths; may be empty
};

/// With a baseline the headline orders the recipes by their gap, whatever the order turns out to be. A gap not
/// larger than the noise is called the same, and recipes closer to each other than the noise are named as not
/// told apart.
Finding state_finding(const Comparison& comparison);

/// "noise: 2 seeds of bf16 differ by 0.30 % in validation loss, the unit of gap %."
std::string state_noise(const Comparison& comparison);

}  // namespace nibble
