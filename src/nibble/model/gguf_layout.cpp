#include "nibble/model/gguf_layout.h"

#include <array>
#include <cmath>

namespace nibble {

std::span<const GgufArchitecture> gguf_architectures() {
  static constexpr std::array<GgufArchitecture, 3> kAll = {{{"llama", false, false, true, true},
                                                            {"qwen2", true, false, false, false},
                                                            {"qwen3", false, true, false, false}}};
  return kAll;
}

std::vector<float> gguf_rope_factors(double theta, std::int64_t head_dim, const RopeScaling& scaling) {
  std::vector<float> factors;
  for (std::int64_t j = 0; j < head_dim / 2; ++j) {
    const double f = std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(head_dim));
    factors.push_back(static_cast<float>(f / scaled_frequency(f, scaling)));
  }
  return factors;
}

}  // namespace nibble
