// Threads. Work is cut into chunks whose borders depend on the problem alone, never on the number of threads,
// so a kernel that reduces chunk by chunk gives the same bits on any number of threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>

namespace nibble {

/// Calls f(begin, end) for consecutive chunks of [0, n) of `grain` items (the last may be shorter), in
/// parallel. Runs inline when there is one chunk or when already inside a parallel region.
template <class F>
void parallel_for(std::int64_t n, std::int64_t grain, F&& f) {
  grain = std::max<std::int64_t>(grain, 1);
  const std::int64_t chunks = (n + grain - 1) / grain;
  if (chunks <= 1 || omp_in_parallel() || omp_get_max_threads() == 1) {
    for (std::int64_t c = 0; c < chunks; ++c) f(c * grain, std::min(n, (c + 1) * grain));
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic, 1)
  for (std::int64_t c = 0; c < chunks; ++c) {
    try {
      f(c * grain, std::min(n, (c + 1) * grain));
    } catch (...) {
#pragma omp critical(nibble_parallel_for)
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

/// Rows a chunk of a row-wise kernel should take so that it moves about 64 KiB: large enough to hide the
/// scheduling, small enough to balance and to stay in L2.
inline std::int64_t rows_per_chunk(std::int64_t row_bytes) {
  return std::max<std::int64_t>(1, (64 << 10) / std::max<std::int64_t>(row_bytes, 1));
}

}  // namespace nibble
