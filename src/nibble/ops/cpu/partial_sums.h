// A sum of vectors over the rows of a matrix in an order that the number of rows alone decides: chunks of rows have a
// partial sum each, which are added in their order.
#pragma once

#include <algorithm>

#include "nibble/tensor/parallel.h"
#include "nibble/tensor/tensor.h"

namespace nibble::cpu {

/// Rows that share one partial sum. At least 32, so that writing and reading back the partials is a small part of the
/// traffic; at most 256 partials, so that they need little memory.
inline std::int64_t rows_per_partial(std::int64_t rows) { return std::max<std::int64_t>(32, (rows + 255) / 256); }

/// to += from (tensor/simd.h).
void add_floats(float* to, const float* from, std::int64_t n);

/// to[i] += sum over t of what add_row(t, sum) adds to sum[i]; to and sum are n floats.
template <class AddRow>
void add_partial_sums(std::int64_t rows, std::int64_t n, float* to, Arena& scratch, AddRow&& add_row) {
  if (rows == 0) return;
  const ArenaScope scope(scratch);
  const std::int64_t grain = rows_per_partial(rows);
  const std::int64_t partials = (rows + grain - 1) / grain;
  const Tensor partial = scratch.allocate(DType::F32, {partials, n});
  float* sums = partial.data<float>();
  parallel_for(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    float* sum = sums + begin / grain * n;
    std::fill(sum, sum + n, 0.0f);
    for (std::int64_t t = begin; t < end; ++t) add_row(t, sum);
  });
  parallel_for(n, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = 0; p < partials; ++p) add_floats(to + begin, sums + p * n + begin, end - begin);
  });
}

}  // namespace nibble::cpu
