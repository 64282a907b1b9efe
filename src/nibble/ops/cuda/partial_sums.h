// The second half of a sum over rows: kernels leave one partial sum a block, which are added here in their order, so
// that the result is the same on every GPU and from run to run.
#pragma once

#include <cstdint>

namespace nibble::cuda {

/// to[i] += sum over p < count of partial[p, i]; partial [count, n] and to [n] are device memory.
void add_partial_sums(const float* partial, int count, std::int64_t n, float* to);

}  // namespace nibble::cuda
