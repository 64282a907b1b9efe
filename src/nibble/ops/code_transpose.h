// Transposing packed four-bit codes: eight rows of eight codes at a time, in registers, on the CPU and on the GPU.
#pragma once

#include <cstdint>

#include "nibble/numerics/portable.h"

namespace nibble {

namespace detail {
/// Exchanges the upper halves of the fields of x with the lower halves of those of y; a field has 2 * kBits bits, of
/// which kLow marks the lower half.
template <int kBits, std::uint32_t kLow>
NIBBLE_FN void exchange_fields(std::uint32_t& x, std::uint32_t& y) {
  const std::uint32_t difference = ((x >> kBits) ^ y) & kLow;
  x ^= difference << kBits;
  y ^= difference;
}
}  // namespace detail

/// In front: word r holds codes (r, 0) to (r, 7), the first in the lowest nibble. Behind: word c holds codes (0, c) to
/// (7, c). Squares of 4, then 2, then 1 codes change places.
NIBBLE_FN void transpose_codes(std::uint32_t (&words)[8]) {
  for (int i = 0; i < 4; ++i) detail::exchange_fields<16, 0x0000'FFFFu>(words[i], words[i + 4]);
  for (int i = 0; i < 8; i += 4) {
    detail::exchange_fields<8, 0x00FF'00FFu>(words[i], words[i + 2]);
    detail::exchange_fields<8, 0x00FF'00FFu>(words[i + 1], words[i + 3]);
  }
  for (int i = 0; i < 8; i += 2) detail::exchange_fields<4, 0x0F0F'0F0Fu>(words[i], words[i + 1]);
}

}  // namespace nibble
