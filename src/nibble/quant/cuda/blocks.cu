// Blocks that lie within a warp, their scales and codes in one pass, eight columns a thread; under one scale of the
// tensor a pass for its amax before. Bound by memory, with stochastic rounding by the integer units.
#include <bit>

#include "nibble/quant/cuda/blocks.cuh"
#include "nibble/quant/cuda/cases.cuh"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kWidest = 256;  ///< what a warp holds

template <class T>
__device__ __forceinline__ void encode_within_rows(const SourceView& source, const BlocksView& view,
                                                   const FastDivide& chunks) {
  __shared__ TensorScale tensor;
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  const std::uint32_t r = chunks.quotient(item);
  const std::uint32_t c = 8 * (item - r * chunks.divisor());
  float y[8];
  read_eight<T>(source, r, c, y);
  share_tensor_scale(view, tensor);
  __syncthreads();
  encode_piece<BlockShape::WithinRow>(view, tensor, r, c, y);
}

template <class Case, class T>
__global__ void __launch_bounds__(kThreads)
    encode_blocks_kernel(const __grid_constant__ SourceView source, const __grid_constant__ BlocksView view,
                         FastDivide chunks) {
  if constexpr (Case::kAny) {
    encode_within_rows<T>(source, view, chunks);
  } else {
    BlocksView fixed = view;
    Case::fix(fixed.codes);
    Case::fix(fixed.encode);
    Case::fix(fixed.scale);
    fixed.outer = 0;
    encode_within_rows<T>(as_in<Case>(source), fixed, chunks);
  }
}

/// A warp takes one block of 16 x 16.
template <class T>
__global__ void __launch_bounds__(kThreads)
    encode_squares_kernel(const __grid_constant__ SourceView source, const __grid_constant__ BlocksView view,
                          FastDivide squares) {
  __shared__ TensorScale tensor;
  const std::uint32_t item = (blockIdx.x * kThreads + threadIdx.x) / 32;
  const std::uint32_t lane = threadIdx.x % 32;
  const std::uint32_t band = squares.quotient(item);
  const std::uint32_t r = 16 * band + lane / 2;
  const std::uint32_t c = 16 * (item - band * squares.divisor()) + 8 * (lane % 2);
  float y[8];
  read_eight<T>(source, r, c, y);
  share_tensor_scale(view, tensor);
  __syncthreads();
  encode_piece<BlockShape::Square>(view, tensor, r, c, y);
}

bool fits(std::int64_t columns) {
  return columns >= 8 && columns <= kWidest && std::has_single_bit(static_cast<std::uint64_t>(columns));
}

}  // namespace

BlocksView blocks_view(const Job& job) {
  const QTensor& q = job.q;
  BlocksView view;
  view.scale = ScaleView(job.spec);
  view.encode = encode_view(job);
  view.codes = CodesView(q);
  view.scales = ScalesView(q.scales);
  view.rows = static_cast<std::uint32_t>(q.rows);
  view.cols = static_cast<std::uint32_t>(q.cols);
  view.block = static_cast<int>(q.granularity.cols);
  view.shift = std::countr_zero(static_cast<unsigned>(view.block));
  view.outer = static_cast<int>(q.outer);
  view.eden_group = job.spec.rounding == Rounding::Eden ? static_cast<int>(job.spec.eden_group) : 0;
  view.scale_cols = q.scale_cols();
  if (q.outer_scales.defined()) {
    view.outer_scales = q.outer_scales.data<float>();
    view.outer_cols = q.outer_scales.cols();
  }
  return view;
}

bool fits_blocks(const QuantSpec& spec) {
  return spec.granularity.rows == 1 && has_scale(spec.element) && fits(spec.granularity.cols) &&
         (spec.scale != ScaleRule::Nvfp4 || spec.nvfp4.outer == 0 || fits(spec.nvfp4.outer)) &&
         (spec.rounding != Rounding::Eden || fits(spec.eden_group));
}

bool fits_squares(const QuantSpec& spec) {
  return has_scale(spec.element) && spec.granularity == Granularity::block(16, 16);
}

void encode_blocks(const Job& job) {
  BlocksView view = blocks_view(job);
  if (job.q.device_scale.defined()) {
    auto* amax = job.scratch<std::int32_t>(1);
    tensor_amax(job, amax);
    view.tensor_amax = amax;
    view.device_scale = job.q.device_scale.data<float>();
  }
  dispatch_float(job.dtype, [&]<class T>(T*) {
    if (job.q.block_rows() == 16) {
      const std::int64_t items = job.q.scale_rows() * job.q.scale_cols();
      encode_squares_kernel<T><<<blocks_for(32 * items, kThreads), kThreads, 0, cuda::stream()>>>(
          job.source, view, FastDivide(job.q.scale_cols()));
      cuda::launched("encode_squares_kernel");
      return;
    }
    const int unit = std::max({8, view.block, view.outer, view.eden_group, job.source.hadamard.group});
    const std::int64_t chunks = chunks_of_row(job.cols(), unit);
    dispatch_case(job, [&]<class Case>(Case) {
      encode_blocks_kernel<Case, T><<<blocks_for(job.rows() * chunks, kThreads), kThreads, 0, cuda::stream()>>>(
          job.source, view, FastDivide(chunks));
    });
    cuda::launched("encode_blocks_kernel");
  });
}

}  // namespace nibble::quant_cuda
