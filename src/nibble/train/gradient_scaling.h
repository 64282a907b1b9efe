// What FP8 gradients are divided by, beside their tensor's power of two, so that sums of R ranks' codes fit into E4M3:
// train.exchange_scaling.
//
//   sqrt   sqrt(R), for sums of values that go separate ways (MS-AMP)
//   auto   1 / mu. mu is halved after a step in which more than 1e-5 of the sums saturated, else multiplied by
//          2^(1/1000); at most 1, where a rank's own largest is 448. It begins at 1 / sqrt(R). (FP8-LM, arXiv
//          2310.18313, section 2.1; there mu scales the gradients of all tensors alike, as here)
#pragma once

#include <cstdint>

namespace nibble {

enum class ExchangeScaling : std::uint8_t { Sqrt, Auto };

class GradientScaling {
 public:
  GradientScaling(ExchangeScaling rule, int ranks);
  /// For encode_gradient and decode_gradient (ops/gradient_codes.h).
  float divisor() const;
  /// `saturated`: the share of sums of the step that were held to 448, on all ranks.
  void after_step(double saturated);
  bool adapts() const { return rule_ == ExchangeScaling::Auto; }
  /// mu.
  double factor() const { return factor_; }
  /// Goes on from the mu of a checkpoint.
  void restore(double factor);

 private:
  ExchangeScaling rule_;
  int ranks_;
  double factor_;
};

}  // namespace nibble
