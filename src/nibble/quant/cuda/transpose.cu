// Copies of x by the rows of y: its transpose, and y itself where a pass cannot compute it as it reads.
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kTile = 64;
constexpr int kRowsAtOnce = 4;
constexpr int kThreads = kTile * kRowsAtOnce;

/// Tiles of 64 x 64 through shared memory, whose rows are an odd number of words apart. Bound by memory.
template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    transpose_kernel(const From* __restrict__ x, std::int64_t rows, std::int64_t cols, bool round_to_bf16,
                     FastDivide tiles, To* __restrict__ out) {
  __shared__ float tile[kTile][kTile + 1];
  const std::uint32_t band = tiles.quotient(blockIdx.x);
  const std::int64_t r0 = std::int64_t{kTile} * band;
  const std::int64_t c0 = std::int64_t{kTile} * (blockIdx.x - band * tiles.divisor());
  const int lane = static_cast<int>(threadIdx.x) % kTile;
  const int first = static_cast<int>(threadIdx.x) / kTile;
#pragma unroll
  for (int i = first; i < kTile; i += kRowsAtOnce) {
    if (r0 + i < rows && c0 + lane < cols) tile[i][lane] = to_float(x[(r0 + i) * cols + c0 + lane]);
  }
  __syncthreads();
#pragma unroll
  for (int i = first; i < kTile; i += kRowsAtOnce) {
    if (r0 + lane >= rows || c0 + i >= cols) continue;
    const float v = tile[lane][i];
    out[(c0 + i) * rows + r0 + lane] = from_float<To>(round_to_bf16 ? bf16_round(v) : v);
  }
}

constexpr int kItemThreads = 256;

template <class T>
__global__ void __launch_bounds__(kItemThreads)
    materialise_kernel(const __grid_constant__ SourceView source, const __grid_constant__ CodesView out,
                       FastDivide chunks) {
  const std::uint32_t item = blockIdx.x * kItemThreads + threadIdx.x;
  const std::uint32_t r = chunks.quotient(item);
  const std::uint32_t c = 8 * (item - r * chunks.divisor());
  float y[8];
  read_unclamped<T>(source, r, c, y);
  if (r < source.rows && c < source.cols) store_values(out, r, c, y);
}

}  // namespace

void transpose(const Tensor& x, bool round_to_bf16, const Tensor& out) {
  const std::int64_t tiles = (x.cols() + kTile - 1) / kTile;
  const std::int64_t bands = (x.rows() + kTile - 1) / kTile;
  dispatch_float(x.dtype(), [&]<class From>(From*) {
    dispatch_float(out.dtype(), [&]<class To>(To*) {
      transpose_kernel<From, To><<<blocks_for(bands * tiles, 1), kThreads, 0, cuda::stream()>>>(
          x.data<From>(), x.rows(), x.cols(), round_to_bf16, FastDivide(tiles), out.data<To>());
      cuda::launched("transpose_kernel");
    });
  });
}

void materialise(Job& job) {
  const Tensor y = job.arena.allocate(DType::F32, {job.rows(), job.cols()});
  dispatch_float(job.dtype, [&]<class T>(T*) {
    const std::int64_t chunks = chunks_of_row(job.cols(), std::max(8, job.source.hadamard.group));
    materialise_kernel<T><<<blocks_for(job.rows() * chunks, kItemThreads), kItemThreads, 0, cuda::stream()>>>(
        job.source, CodesView(QTensor::view(y)), FastDivide(chunks));
    cuda::launched("materialise_kernel");
  });
  job.dtype = DType::F32;
  job.source = plain_source(y);
}

}  // namespace nibble::quant_cuda
