// What the values of a layer's X, W and dY look like before anything is quantised.
#pragma once

#include <cstdint>
#include <vector>

#include "nibble/tensor/tensor.h"

namespace nibble {

struct TensorFigures {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  double rms = 0;       ///< sqrt(mean x^2)
  double amax = 0;      ///< max |x|
  double kurtosis = 0;  ///< E (x - E x)^4 / (E (x - E x)^2)^2: 3 for normal values; 0 where all are equal
};

/// Channels of X are its columns.
struct ChannelFigures {
  struct Channel {
    std::int64_t channel = 0;
    double over_median = 0;  ///< RMS of the channel over the median of all channels' RMS; infinite over a median of 0
  };
  std::vector<Channel> top;  ///< kTopChannels of largest RMS, or all; largest first, the lower channel of equal ones
  double top_energy = 0;     ///< share of sum x^2 in the ceil(cols / 100) channels that hold most of it
};
inline constexpr std::size_t kTopChannels = 5;

/// Of a matrix in F32 or BF16; sums in double, in the order of the elements.
TensorFigures tensor_figures(const Tensor& x);
ChannelFigures channel_figures(const Tensor& x);

}  // namespace nibble
