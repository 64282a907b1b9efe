// Blocks that lie within a warp, their scales and codes in one pass, sixteen columns a thread; under one scale of the
// tensor a pass for its amax before. Bound by memory, with stochastic rounding by the integer units.
#include <bit>

#include "nibble/quant/cuda/piece.cuh"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kWidest = 256;  ///< columns of what lanes share

template <int kCase, class T>
__global__ void __launch_bounds__(kThreads)
    encode_blocks_kernel(const __grid_constant__ SourceView source, const __grid_constant__ BlocksView view,
                         FastDivide pieces) {
  __shared__ TensorScale tensor;
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  const std::uint32_t r = pieces.quotient(item);
  const std::uint32_t c = kPiece * (item - r * pieces.divisor());
  float y[kPiece];
  read_piece<kCase, T>(source, r, c, y);
  share_tensor_scale(view, tensor);
  __syncthreads();
  const BlocksView fixed = in_case<kCase>(view);
  encode_piece<BlockShape::WithinRow>(fixed, tensor, r, c, y, [&](const std::uint32_t(&words)[4], std::uint8_t scale) {
    store_piece(fixed, r, c, words, scale);
  });
}

/// A half warp takes one block of 16 x 16, the halves of a warp neighbouring ones.
template <int kCase, class T>
__global__ void __launch_bounds__(kThreads)
    encode_squares_kernel(const __grid_constant__ SourceView source, const __grid_constant__ BlocksView view,
                          FastDivide squares) {
  __shared__ TensorScale tensor;
  const std::uint32_t item = (blockIdx.x * kThreads + threadIdx.x) / 16;
  const std::uint32_t band = squares.quotient(item);
  const std::uint32_t r = 16 * band + threadIdx.x % 16;
  const std::uint32_t c = kPiece * (item - band * squares.divisor());
  float y[kPiece];
  read_piece<kCase, T>(source, r, c, y);
  share_tensor_scale(view, tensor);
  __syncthreads();
  const BlocksView fixed = in_case<kCase>(view);
  encode_piece<BlockShape::Square>(fixed, tensor, r, c, y, [&](const std::uint32_t(&words)[4], std::uint8_t scale) {
    store_piece(fixed, r, c, words, scale);
  });
}

/// The largest magnitude of everything.
template <int kCase, class T>
__global__ void __launch_bounds__(kThreads)
    pieces_amax_kernel(const __grid_constant__ SourceView source, FastDivide pieces, std::uint32_t items,
                       std::int32_t* amax) {
  std::int32_t most = 0;
#pragma unroll 2
  for (std::uint32_t begin = blockIdx.x * kThreads; begin < items; begin += gridDim.x * kThreads) {
    const std::uint32_t item = begin + threadIdx.x;
    const std::uint32_t r = pieces.quotient(item);
    float y[kPiece];
    read_piece<kCase, T>(source, r, kPiece * (item - r * pieces.divisor()), y);
    most = max(most, amax_bits(y));
  }
  most = __reduce_max_sync(0xFFFF'FFFFu, most);
  if (threadIdx.x % 32 == 0) atomicMax(amax, most);
}

bool fits(std::int64_t columns) {
  return columns >= kPiece && columns <= kWidest && std::has_single_bit(static_cast<std::uint64_t>(columns));
}

/// The case whose kernels also exist for blocks of 16 x 16.
constexpr int kSquares = 0;

}  // namespace

BlocksView blocks_view(const Job& job) {
  const QTensor& q = job.q;
  const Granularity& blocks = job.spec.granularity;
  BlocksView view;
  view.scale = ScaleView(job.spec);
  view.encode = encode_view(job);
  view.codes = CodesView(q, job.form);
  if (q.scales.defined()) view.scales = ScalesView(q.scales);
  view.rows = static_cast<std::uint32_t>(q.rows);
  view.cols = static_cast<std::uint32_t>(q.cols);
  view.block = static_cast<int>(blocks.cols);
  view.shift = std::countr_zero(static_cast<unsigned>(view.block));
  view.outer = static_cast<int>(q.outer);
  view.eden_group = job.spec.rounding == Rounding::Eden ? static_cast<int>(job.spec.eden_group) : 0;
  view.scale_cols = (q.cols + blocks.cols - 1) / blocks.cols;
  if (q.outer_scales.defined()) {
    view.outer_scales = q.outer_scales.data<float>();
    view.outer_cols = q.outer_scales.cols();
  }
  return view;
}

int columns_of_unit(const Job& job) {
  return std::max({kPiece, static_cast<int>(job.spec.granularity.cols), static_cast<int>(job.q.outer),
                   job.spec.rounding == Rounding::Eden ? static_cast<int>(job.spec.eden_group) : 0,
                   job.source.hadamard.group});
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
  const bool squares = job.spec.granularity.rows == 16;
  const std::int64_t pieces = chunks_of_row(job.cols(), columns_of_unit(job), kPiece);
  const std::int64_t items = job.rows() * pieces;
  const bool one_scale = job.q.device_scale.defined();
  const std::int32_t* known = one_scale ? job.known_amax() : nullptr;
  auto* amax = one_scale && known == nullptr ? job.scratch<std::int32_t>(1) : nullptr;  // to be found
  view.tensor_amax = known != nullptr ? known : amax;
  if (one_scale) view.device_scale = job.q.device_scale.data<float>();
  const auto encode = [&](auto number) {
    constexpr int kCase = number;
    dispatch_float(job.dtype, [&]<class T>(T*) {
      if (amax != nullptr) {
        fill_zero_async(amax, sizeof(std::int32_t));
        blocks_for(items, kThreads);
        pieces_amax_kernel<kCase, T><<<cuda::grid_for(items, kThreads, 1), kThreads, 0, cuda::stream()>>>(
            job.source, FastDivide(pieces), static_cast<std::uint32_t>(items), amax);
        cuda::launched("pieces_amax_kernel");
      }
      if constexpr (kCase == kAnyCase || kCase == kSquares) {
        if (squares) {
          const std::int64_t across = (job.cols() + 15) / 16;
          const std::int64_t bands = (job.rows() + 15) / 16;
          encode_squares_kernel<kCase, T><<<blocks_for(16 * bands * across, kThreads), kThreads, 0, cuda::stream()>>>(
              job.source, view, FastDivide(across));
          cuda::launched("encode_squares_kernel");
          return;
        }
      }
      encode_blocks_kernel<kCase, T>
          <<<blocks_for(items, kThreads), kThreads, 0, cuda::stream()>>>(job.source, view, FastDivide(pieces));
      cuda::launched("encode_blocks_kernel");
    });
  };
  if (!squares) return dispatch_case<kBlockCases>(job, encode);
  holds(kBlockCases[kSquares], job, Granularity::block(1, 16)) ? encode(std::integral_constant<int, kSquares>())
                                                               : encode(std::integral_constant<int, kAnyCase>());
}

}  // namespace nibble::quant_cuda
