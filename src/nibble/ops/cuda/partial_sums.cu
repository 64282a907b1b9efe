#include "nibble/ops/cuda/partial_sums.h"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kColumns = 32;
constexpr int kWarps = 16;

/// A lane for each column, warp w adds partials w, w + 16, ...
__global__ void __launch_bounds__(kColumns* kWarps)
    add_partial_sums_kernel(const float* partial, int count, std::int64_t n, float* to) {
  __shared__ float sums[kWarps][kColumns];
  const int lane = threadIdx.x % kColumns;
  const int warp = threadIdx.x / kColumns;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kColumns + lane;
  float sum = 0;
  if (column < n) {
#pragma unroll 8
    for (int p = warp; p < count; p += kWarps) sum += partial[p * n + column];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= n) return;
  for (int w = 1; w < kWarps; ++w) sum += sums[w][lane];
  to[column] += sum;
}

}  // namespace

void add_partial_sums(const float* partial, int count, std::int64_t n, float* to) {
  if (count == 0 || n == 0) return;
  const auto blocks = static_cast<unsigned>((n + kColumns - 1) / kColumns);
  add_partial_sums_kernel<<<blocks, kColumns * kWarps, 0, stream()>>>(partial, count, n, to);
  launched("adding partial sums");
}

}  // namespace nibble::cuda
