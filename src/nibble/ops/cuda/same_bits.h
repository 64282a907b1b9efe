// Whether two stretches of device memory hold the same bits.
#pragma once

#include <cstddef>

namespace nibble::cuda {

/// Waits for the stream. Both begin at a multiple of four bytes; `bytes` may be odd.
bool same_bits(const void* a, const void* b, std::size_t bytes);

}  // namespace nibble::cuda
