#include "nibble/ops/rope.h"

#include <numbers>

namespace nibble {

double scaled_frequency(double f, const RopeScaling& scaling) {
  if (scaling.kind == RopeScaling::Kind::None) return f;
  if (scaling.kind == RopeScaling::Kind::Linear) return f / scaling.factor;
  const double turns = static_cast<double>(scaling.original_seq) * f / (2 * std::numbers::pi);  // within original_seq
  if (turns > scaling.high_freq_factor) return f;
  if (turns < scaling.low_freq_factor) return f / scaling.factor;
  const double s = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - s) * f / scaling.factor + s * f;
}

}  // namespace nibble
