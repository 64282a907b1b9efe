// What gradients travel between ranks as: train.exchange.
#pragma once

#include <cstdint>

namespace nibble {

enum class ExchangeFormat : std::uint8_t {
  Stored,  ///< F32, or BF16 with train.gradients = "bf16"
  Bf16,    ///< rounded to BF16 by each rank
  Fp8,     ///< E4M3 under one scale a tensor (ops/gradient_codes.h, train/gradient_scaling.h)
};

}  // namespace nibble
