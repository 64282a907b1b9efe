// Philox4x32-10 for many consecutive groups at once.
#pragma once

#include "nibble/numerics/philox.h"

namespace nibble::quant_cpu {

/// The words of stream.words(group + i), i in [0, count), one after the other in native byte order: 16 count bytes at
/// `out`, which need not be aligned.
void philox_groups(const RandomStream& stream, std::uint64_t group, std::int64_t count, void* out);

}  // namespace nibble::quant_cpu
