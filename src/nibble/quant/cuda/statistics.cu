// Blocks of any shape: the statistics of all blocks, then their scales. A block's moments are sums of its rows' parts,
// each part added as sixteen lanes (scales.cuh), the parts one after the other: so a half warp takes one row of one
// block, and a warp then adds the rows. An amax needs no order. Bound by memory where blocks are wide.
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kSlab = 64;  ///< rows that one thread of a column takes

using quant_cpu::Moments;

__device__ __forceinline__ std::int32_t warp_max(std::int32_t v) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) v = max(v, __shfl_xor_sync(0xFFFF'FFFFu, v, lanes));
  return v;
}

/// The largest magnitude of everything, by chunks of eight columns.
template <class T>
__global__ void __launch_bounds__(kThreads)
    tensor_amax_kernel(const __grid_constant__ SourceView source, FastDivide chunks, std::uint32_t items,
                       std::int32_t* amax) {
  __shared__ std::int32_t of_warp[kThreads / 32];
  std::int32_t most = 0;
  for (std::uint32_t begin = blockIdx.x * kThreads; begin < items; begin += gridDim.x * kThreads) {
    const std::uint32_t item = begin + threadIdx.x;
    const std::uint32_t r = chunks.quotient(item);
    float y[8];
    read_eight<T>(source, r, 8 * (item - r * chunks.divisor()), y);
#pragma unroll
    for (int i = 0; i < 8; ++i) most = max(most, magnitude_bits(y[i]));
  }
  most = warp_max(most);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  most = warp_max(threadIdx.x < kThreads / 32 ? of_warp[threadIdx.x] : 0);
  if (threadIdx.x == 0) atomicMax(amax, most);
}

struct Statistics {
  std::int32_t* amax = nullptr;  ///< [bands, blocks]
  float* row_sum = nullptr;      ///< [rows, blocks], where there are moments
  float* row_squares = nullptr;
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    block_statistics_kernel(const __grid_constant__ SourceView source, BlocksOf blocks, FastDivide blocks_of_row,
                            std::uint32_t items, Moments moments, Statistics out) {
  const std::uint32_t item = (blockIdx.x * kThreads + threadIdx.x) / 16;
  const std::uint32_t lane = threadIdx.x % 16;
  const bool inside = item < items;
  const std::uint32_t r = inside ? blocks_of_row.quotient(item) : 0;
  const std::uint32_t j = item - r * blocks.blocks;
  const std::uint32_t begin = j * blocks.cols.divisor();
  const std::uint32_t end = inside ? min(begin + blocks.cols.divisor(), source.cols) : begin;
  std::int32_t amax = 0;
  float sum = 0;
  float squares = 0;
#pragma unroll 4
  for (std::uint32_t c = begin + lane; c < end; c += 16) {
    const float v = read_one<T>(source, r, c);
    amax = max(amax, magnitude_bits(v));
    sum += moments == Moments::Absolute ? fabsf(v) : v;
    squares += v * v;
  }
#pragma unroll
  for (int lanes = 8; lanes > 0; lanes /= 2) amax = max(amax, __shfl_xor_sync(0xFFFF'FFFFu, amax, lanes));
  sum = fold_sixteen(sum, AddOp());
  squares = fold_sixteen(squares, AddOp());
  if (!inside || lane != 0) return;
  atomicMax(out.amax + static_cast<std::int64_t>(blocks.rows.quotient(r)) * blocks.blocks + j, amax);
  if (moments == Moments::None) return;
  const std::int64_t index = static_cast<std::int64_t>(r) * blocks.blocks + j;
  out.row_sum[index] = sum;
  out.row_squares[index] = squares;
}

/// Blocks of one column: a thread takes eight columns of up to kSlab rows of a band.
template <class T, bool kMoments>
__global__ void __launch_bounds__(kThreads)
    column_statistics_kernel(const __grid_constant__ SourceView source, BlocksOf blocks, FastDivide chunks,
                             FastDivide slabs, std::uint32_t items, Moments moments, Statistics out) {
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const std::uint32_t slab = chunks.quotient(item);
  const std::uint32_t c = 8 * (item - slab * chunks.divisor());
  const std::uint32_t band = slabs.quotient(slab);
  const std::uint32_t height = blocks.rows.divisor();
  const std::uint32_t within = (slab - band * slabs.divisor()) * kSlab;
  const std::uint32_t first = band * height + within;
  const std::uint32_t last = min(band * height + min(within + kSlab, height), source.rows);
  std::int32_t amax[8] = {};
#pragma unroll 4
  for (std::uint32_t r = first; r < last; ++r) {
    float y[8];
    read_eight<T>(source, r, c, y);
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) {
      amax[i] = max(amax[i], magnitude_bits(y[i]));
      if constexpr (kMoments) {
        if (c + i >= source.cols) continue;
        const std::int64_t index = static_cast<std::int64_t>(r) * source.cols + c + i;
        out.row_sum[index] = moments == Moments::Absolute ? fabsf(y[i]) : y[i];
        out.row_squares[index] = y[i] * y[i];
      }
    }
  }
#pragma unroll
  for (std::uint32_t i = 0; i < 8; ++i) {
    if (c + i < source.cols && first < last) {
      atomicMax(out.amax + static_cast<std::int64_t>(band) * source.cols + c + i, amax[i]);
    }
  }
}

/// sum and squares of a block from those of its rows, in the order of the rows: a warp reads 32 of them at a time.
__global__ void __launch_bounds__(kThreads)
    add_rows_kernel(const float* __restrict__ row_sum, const float* __restrict__ row_squares, std::uint32_t rows,
                    BlocksOf blocks, FastDivide blocks_of_band, std::uint32_t items, float* __restrict__ sum,
                    float* __restrict__ squares) {
  const std::uint32_t item = (blockIdx.x * kThreads + threadIdx.x) / 32;
  if (item >= items) return;
  const std::uint32_t lane = threadIdx.x % 32;
  const std::uint32_t band = blocks_of_band.quotient(item);
  const std::uint32_t j = item - band * blocks.blocks;
  const std::uint32_t first = band * blocks.rows.divisor();
  const std::uint32_t last = min(first + blocks.rows.divisor(), rows);
  float s = 0;
  float q = 0;
  for (std::uint32_t r = first; r < last; r += 32) {
    const bool inside = r + lane < last;
    const std::int64_t index = static_cast<std::int64_t>(r + lane) * blocks.blocks + j;
    const float a = inside ? row_sum[index] : 0.0f;
    const float b = inside ? row_squares[index] : 0.0f;
#pragma unroll
    for (int i = 0; i < 32; ++i) {  // beyond the last row zeros are added, which change nothing
      s += __shfl_sync(0xFFFF'FFFFu, a, i);
      q += __shfl_sync(0xFFFF'FFFFu, b, i);
    }
  }
  if (lane != 0) return;
  sum[item] = s;
  squares[item] = q;
}

__global__ void __launch_bounds__(kThreads)
    largest_kernel(const std::int32_t* __restrict__ values, std::int64_t n, std::int32_t* largest) {
  std::int32_t most = 0;
  for (std::int64_t i = blockIdx.x * kThreads + threadIdx.x; i < n; i += std::int64_t{gridDim.x} * kThreads) {
    most = max(most, values[i]);
  }
  most = warp_max(most);
  if (threadIdx.x % 32 == 0) atomicMax(largest, most);
}

/// What a pass over the blocks takes and gives.
struct ScalePass {
  const std::int32_t* amax = nullptr;
  const float* sum = nullptr;
  const float* squares = nullptr;
  const std::int32_t* tensor_amax = nullptr;  ///< Nvfp4 under one scale of the tensor
  std::uint32_t stretch = 0;                  ///< blocks under an outer scale, where there are such
  float* outer_scales = nullptr;
  std::uint32_t outer_cols = 0;
  float* device_scale = nullptr;
  ScalesView scales;
  float* multipliers = nullptr;
};

/// The outer scale over block j of a band (with stretches, of a row).
__device__ __forceinline__ quant_cpu::OuterScale outer_of(const ScaleView& view, const ScalePass& pass,
                                                          const BlocksOf& blocks, std::uint32_t band, std::uint32_t j) {
  if (pass.stretch == 0) return outer_scale(view, *pass.tensor_amax);
  const std::uint32_t first = j / pass.stretch * pass.stretch;
  const std::uint32_t last = min(first + pass.stretch, blocks.blocks);
  std::int32_t amax = 0;
  for (std::uint32_t k = first; k < last; ++k) {
    amax = max(amax, pass.amax[static_cast<std::int64_t>(band) * blocks.blocks + k]);
  }
  return outer_scale(view, amax);
}

__device__ __forceinline__ void store_outer(const ScalePass& pass, quant_cpu::OuterScale outer, std::uint32_t band,
                                            std::uint32_t j) {
  if (pass.stretch == 0) {
    if (band == 0 && j == 0) *pass.device_scale = outer.decode;
  } else if (j % pass.stretch == 0) {
    pass.outer_scales[static_cast<std::int64_t>(band) * pass.outer_cols + j / pass.stretch] = outer.decode;
  }
}

__global__ void __launch_bounds__(kThreads)
    scales_kernel(const __grid_constant__ ScaleView view, const __grid_constant__ ScalePass pass, BlocksOf blocks,
                  FastDivide blocks_of_band, std::uint32_t items, std::uint32_t rows, std::uint32_t cols) {
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const std::uint32_t band = blocks_of_band.quotient(item);
  const std::uint32_t j = item - band * blocks.blocks;
  if (view.rule == ScaleRule::Nvfp4) {
    const quant_cpu::OuterScale outer = outer_of(view, pass, blocks, band, j);
    store_outer(pass, outer, band, j);
    const Nvfp4Candidate scale = nvfp4_candidate(view, pass.amax[item], outer, 1.0f);
    pass.scales.bytes[item] = scale.code;
    pass.multipliers[item] = scale.multiplier;
    return;
  }
  float sum = 0;
  float squares = 0;
  if (view.moments != Moments::None) {
    sum = pass.sum[item];
    squares = pass.squares[item];
  }
  const std::uint32_t height = min(blocks.rows.divisor(), rows - band * blocks.rows.divisor());
  const std::uint32_t width = min(blocks.cols.divisor(), cols - j * blocks.cols.divisor());
  const auto count = static_cast<float>(static_cast<std::int64_t>(height) * width);
  const BlockScale scale = block_scale(view, pass.amax[item], sum, squares, count);
  pass.scales.store(item, scale.stored, scale.code);
  pass.multipliers[item] = scale.multiplier;
}

/// Four-over-six: a half warp measures both candidates of one block, row by row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    selected_scales_kernel(const __grid_constant__ SourceView source, const __grid_constant__ ScaleView view,
                           const __grid_constant__ ScalePass pass, BlocksOf blocks, FastDivide blocks_of_band,
                           std::uint32_t items) {
  const std::uint32_t item = (blockIdx.x * kThreads + threadIdx.x) / 16;
  const std::uint32_t lane = threadIdx.x % 16;
  const bool inside = item < items;
  const std::uint32_t band = inside ? blocks_of_band.quotient(item) : 0;
  const std::uint32_t j = inside ? item - band * blocks.blocks : 0;
  const quant_cpu::OuterScale outer = outer_of(view, pass, blocks, band, j);
  const std::int32_t amax = pass.amax[static_cast<std::int64_t>(band) * blocks.blocks + j];
  Nvfp4Candidate six = nvfp4_candidate(view, amax, outer, 1.0f);
  const Nvfp4Candidate four = nvfp4_candidate(view, amax, outer, 1.5f);
  const Gather gather{view.selection == Selection::MaxAbs};
  const std::uint32_t begin = j * blocks.cols.divisor();
  const std::uint32_t end = min(begin + blocks.cols.divisor(), source.cols);
  const std::uint32_t first = band * blocks.rows.divisor();
  float error6 = 0;
  float error4 = 0;
  for (std::uint32_t i = 0; i < blocks.rows.divisor(); ++i) {
    float lane6 = 0;
    float lane4 = 0;
    if (inside && first + i < source.rows) {
      for (std::uint32_t c = begin + lane; c < end; c += 16) {
        const float y = read_one<T>(source, first + i, c);
        lane6 = gather(lane6, selection_error(view, y, six));
        lane4 = gather(lane4, selection_error(view, y, four));
      }
    }
    error6 = gather(error6, fold_sixteen(lane6, gather));
    error4 = gather(error4, fold_sixteen(lane4, gather));
  }
  if (!inside || lane != 0) return;
  store_outer(pass, outer, band, j);
  if (error4 < error6) six = four;
  pass.scales.bytes[item] = six.code;
  pass.multipliers[item] = six.multiplier;
}

template <class T>
void collect(const Job& job, const BlocksOf& blocks, Moments moments, const Statistics& out) {
  if (blocks.cols.divisor() == 1) {
    const std::int64_t chunks = chunks_of_row(job.cols());
    const std::int64_t slabs = (blocks.rows.divisor() + kSlab - 1) / kSlab;
    const std::int64_t items = chunks * slabs * blocks.bands;
    const auto kernel =
        moments == Moments::None ? column_statistics_kernel<T, false> : column_statistics_kernel<T, true>;
    kernel<<<blocks_for(items, kThreads), kThreads, 0, cuda::stream()>>>(
        job.source, blocks, FastDivide(chunks), FastDivide(slabs), static_cast<std::uint32_t>(items), moments, out);
    cuda::launched("column_statistics_kernel");
    return;
  }
  const std::int64_t items = job.rows() * blocks.blocks;
  block_statistics_kernel<T><<<blocks_for(16 * items, kThreads), kThreads, 0, cuda::stream()>>>(
      job.source, blocks, FastDivide(blocks.blocks), static_cast<std::uint32_t>(items), moments, out);
  cuda::launched("block_statistics_kernel");
}

}  // namespace

void tensor_amax(const Job& job, std::int32_t* amax) {
  fill_zero_async(amax, sizeof(std::int32_t));
  dispatch_float(job.dtype, [&]<class T>(T*) {
    const std::int64_t chunks = chunks_of_row(job.source.cols, std::max(8, job.source.hadamard.group));
    const std::int64_t items = job.source.rows * chunks;
    blocks_for(items, kThreads);
    tensor_amax_kernel<T><<<cuda::grid_for(items, kThreads, 1), kThreads, 0, cuda::stream()>>>(
        job.source, FastDivide(chunks), static_cast<std::uint32_t>(items), amax);
    cuda::launched("tensor_amax_kernel");
  });
}

void find_shared_amax(const Job& job, std::int32_t* amax) {
  const BlocksOf blocks(job.q);
  const bool one = std::int64_t{blocks.bands} * blocks.blocks == 1;
  if (one || job.spec.scale == ScaleRule::Nvfp4) return tensor_amax(job, amax);
  dispatch_float(job.dtype, [&]<class T>(T*) { collect<T>(job, blocks, Moments::None, {amax, nullptr, nullptr}); });
}

float* scale_blocks(const Job& job) {
  const QTensor& q = job.q;
  const BlocksOf blocks(q);
  const ScaleView view(job.spec);
  const std::int64_t items = std::int64_t{blocks.bands} * blocks.blocks;
  ScalePass pass;
  const std::int32_t* known = job.known_amax();
  const bool known_blocks = job.known_block_amax() != nullptr;
  auto* amax = known_blocks ? nullptr : job.scratch<std::int32_t>(items + 1);
  pass.amax = known_blocks ? known : amax;
  pass.tensor_amax = known != nullptr ? known : amax + items;
  pass.scales = ScalesView(q.scales);
  pass.multipliers = job.scratch<float>(items);
  if (known_blocks) {
    require(view.moments == Moments::None && job.context.amax.numel() == items,
            "{} known magnitudes for {} scales that follow from an amax", job.context.amax.numel(), items);
  } else if (items == 1 && view.moments == Moments::None) {
    tensor_amax(job, amax);
    if (known == nullptr) pass.tensor_amax = amax;
  } else {
    fill_zero_async(amax, static_cast<std::size_t>(items + 1) * sizeof(std::int32_t));
    Statistics statistics{amax, nullptr, nullptr};
    if (view.moments != Moments::None) {
      statistics.row_sum = job.scratch<float>(job.rows() * blocks.blocks);
      statistics.row_squares = job.scratch<float>(job.rows() * blocks.blocks);
    }
    dispatch_float(job.dtype, [&]<class T>(T*) { collect<T>(job, blocks, view.moments, statistics); });
    if (view.moments != Moments::None) {
      auto* sum = job.scratch<float>(items);
      auto* squares = job.scratch<float>(items);
      add_rows_kernel<<<blocks_for(32 * items, kThreads), kThreads, 0, cuda::stream()>>>(
          statistics.row_sum, statistics.row_squares, static_cast<std::uint32_t>(job.rows()), blocks,
          FastDivide(blocks.blocks), static_cast<std::uint32_t>(items), sum, squares);
      cuda::launched("add_rows_kernel");
      pass.sum = sum;
      pass.squares = squares;
    }
    if (view.rule == ScaleRule::Nvfp4 && q.outer == 0 && known == nullptr) {
      largest_kernel<<<cuda::grid_for(items, kThreads, 1), kThreads, 0, cuda::stream()>>>(amax, items, amax + items);
      cuda::launched("largest_kernel");
    }
  }
  if (q.device_scale.defined()) pass.device_scale = q.device_scale.data<float>();
  if (q.outer_scales.defined()) {
    pass.stretch = static_cast<std::uint32_t>(q.outer / q.block_cols());
    pass.outer_scales = q.outer_scales.data<float>();
    pass.outer_cols = static_cast<std::uint32_t>(q.outer_scales.cols());
  }
  if (view.selection != Selection::None) {
    dispatch_float(job.dtype, [&]<class T>(T*) {
      selected_scales_kernel<T><<<blocks_for(16 * items, kThreads), kThreads, 0, cuda::stream()>>>(
          job.source, view, pass, blocks, FastDivide(blocks.blocks), static_cast<std::uint32_t>(items));
      cuda::launched("selected_scales_kernel");
    });
    return pass.multipliers;
  }
  scales_kernel<<<blocks_for(items, kThreads), kThreads, 0, cuda::stream()>>>(
      view, pass, blocks, FastDivide(blocks.blocks), static_cast<std::uint32_t>(items),
      static_cast<std::uint32_t>(job.rows()), static_cast<std::uint32_t>(job.cols()));
  cuda::launched("scales_kernel");
  return pass.multipliers;
}

}  // namespace nibble::quant_cuda
