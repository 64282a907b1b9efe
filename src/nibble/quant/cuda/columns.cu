// A transposed operand, read by columns: a thread takes sixteen rows by two columns of x, which are two pieces of rows
// of y, in registers. x is read once (under one scale of the tensor or of a row of y, once more for amax) and no
// transpose is stored. Bound by memory.
//
// A thread block takes 128 rows by 64 columns of x. Where `lanes` pieces of a row of y must lie in consecutive lanes
// (blocks, transforms), a warp has 32 / lanes pairs of columns:
//
//   lanes 1   a warp reads 16 rows of 128 bytes (BF16) or 256 (F32), its stores are 8, 16 or 32 bytes of 64 rows of y
//   lanes 8   a warp reads 128 rows of 16 or 32 bytes; its neighbours read the rest of a cache line from L1
#include "nibble/quant/cuda/columns.cuh"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = kTileThreads;
constexpr int kAmaxCols = 256;

/// Both pieces of a thread. Of whole pieces those of x stay as they were read until they are asked for.
template <bool kWhole, bool kFolds, class T>
class Pieces {
 public:
  __device__ __forceinline__ Pieces(const SourceView& s, Place at) : s_(s), at_(at) {
    const T* from = static_cast<const T*>(s.x) + static_cast<std::int64_t>(at.c) * s.cols + at.r;
    inside_ = at.r < s.cols && at.c < s.rows;
    whole_ = kWhole || (s.wide && at.c + kPiece <= s.rows);
#pragma unroll
    for (std::uint32_t i = 0; i < kPiece; ++i) {
      const T* row = from + static_cast<std::int64_t>(i) * s.cols;
      if (whole_) {
        raw_[i] = inside_ ? __ldg(reinterpret_cast<const Raw*>(row)) : Raw();
      } else {
        T both[2] = {};
        for (std::uint32_t k = 0; k < 2; ++k) {
          if (at.r + k < s.cols && at.c + i < s.rows) both[k] = row[k];
        }
        raw_[i] = *reinterpret_cast<const Raw*>(both);
      }
    }
  }

  /// Piece k without transform; zeros outside.
  __device__ __forceinline__ void values(std::uint32_t k, float (&y)[kPiece]) const {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) y[i] = Pair<T>::value(raw_[i], k);
    if constexpr (!kFolds) return;
    if (!inside_ || at_.r + k >= s_.cols) return;
    if (s_.round_to_bf16) {
#pragma unroll
      for (float& v : y) v = bf16_round(v);
    }
    if (s_.row_fold != nullptr) {
#pragma unroll
      for (std::uint32_t i = 0; i < kPiece; ++i) {
        if (whole_ || at_.c + i < s_.rows) y[i] *= __ldg(s_.row_fold + at_.c + i);
      }
    }
    if (s_.col_fold != nullptr) {
      const float fold = __ldg(s_.col_fold + at_.r + k);
#pragma unroll
      for (std::uint32_t i = 0; i < kPiece; ++i) {
        if (whole_ || at_.c + i < s_.rows) y[i] *= fold;
      }
    }
  }

 private:
  using Raw = typename Pair<T>::Raw;
  const SourceView& s_;
  Place at_;
  bool inside_;
  bool whole_;
  alignas(8) Raw raw_[kPiece];
};

/// Blocks of 256 threads that shall fit a multiprocessor: what the registers of raw pieces allow.
constexpr int blocks_of(std::size_t element, int number) { return number == kAnyCase ? 2 : element == 2 ? 4 : 3; }

template <int kCase, class T>
__global__ void __launch_bounds__(kThreads, blocks_of(sizeof(T), kCase))
    encode_columns_kernel(const __grid_constant__ SourceView source, const __grid_constant__ BlocksView view,
                          FastDivide tiles, std::uint32_t lanes) {
  __shared__ TensorScale tensor;
  __shared__ uint4 tile[kStagedChunks<kCase>];
  const Place at(tiles, lanes);
  const Pieces<kCase != kAnyCase, kCase == kAnyCase, T> pieces(source, at);
  share_tensor_scale(view, tensor);
  __syncthreads();
  encode_tile<kCase>(view, tensor, at, tile, [&](std::uint32_t k, float(&y)[kPiece]) {
    pieces.values(k, y);
    transform_piece<kCase>(source, at.c, y);
  });
}

/// The amax of all of y and, where `plain` is wanted, that of what lies before the transform.
template <int kCase, class T>
__global__ void __launch_bounds__(kThreads, blocks_of(sizeof(T), kCase))
    columns_amax_kernel(const __grid_constant__ SourceView source, FastDivide tiles, std::uint32_t lanes,
                        std::int32_t* amax, std::int32_t* plain) {
  __shared__ std::int32_t of_warp[2][kThreads / 32];
  const Place at(tiles, lanes);
  const Pieces<kCase != kAnyCase, kCase == kAnyCase, T> pieces(source, at);
  std::int32_t most[2] = {};
#pragma unroll
  for (std::uint32_t k = 0; k < 2; ++k) {
    float y[kPiece];
    pieces.values(k, y);
    if (plain != nullptr) most[1] = max(most[1], amax_bits(y));
    transform_piece<kCase>(source, at.c, y);
    most[0] = max(most[0], amax_bits(y));
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    most[i] = __reduce_max_sync(0xFFFF'FFFFu, most[i]);
    if (threadIdx.x % 32 == 0) of_warp[i][threadIdx.x / 32] = most[i];
  }
  __syncthreads();
  std::int32_t* to = threadIdx.x == 0 ? amax : plain;
  if (threadIdx.x >= 2 || to == nullptr) return;
  std::int32_t all = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) all = max(all, of_warp[threadIdx.x][warp]);
  atomicMax(to, all);  // one a thread block, since those of all blocks queue at one address
}

/// amax[r] of each row of y: a thread block takes 256 columns by 128 rows of x, a lane eight columns of every eighth
/// row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    row_amaxes_kernel(const __grid_constant__ SourceView source, FastDivide tiles, std::int32_t* __restrict__ amax) {
  __shared__ std::int32_t of_warp[kThreads / 32][kAmaxCols];
  const std::uint32_t band = tiles.quotient(blockIdx.x);
  const std::uint32_t first = kAmaxCols * (blockIdx.x - band * tiles.divisor());
  const std::uint32_t warp = threadIdx.x / 32;
  const std::uint32_t c = first + 8 * (threadIdx.x % 32);
  std::int32_t most[8] = {};
#pragma unroll 4
  for (std::uint32_t i = warp; i < kTileRows; i += kThreads / 32) {
    float y[8];
    read_untransformed<T>(source, kTileRows * band + i, c, y);
#pragma unroll
    for (int k = 0; k < 8; ++k) most[k] = max(most[k], magnitude_bits(y[k]));
  }
#pragma unroll
  for (int k = 0; k < 8; ++k) of_warp[warp][k * 32 + threadIdx.x % 32] = most[k];
  __syncthreads();
  std::int32_t all = 0;
#pragma unroll
  for (const auto& row : of_warp) all = max(all, row[threadIdx.x]);
  const std::uint32_t column = first + 8 * (threadIdx.x % 32) + threadIdx.x / 32;
  if (column < source.cols) atomicMax(amax + column, all);
}

/// The cases of one scale a row.
constexpr Case kRowCases[] = {
    {.element = ElementFormat::E4M3, .folds = true},
    {},
    {.rounding = Rounding::NearestUp},
};

constexpr bool has_folds(int number) { return number == kAnyCase || kRowCases[number].folds; }

/// Under one scale a row of y, which follows from its amax.
template <int kCase, class T>
__global__ void __launch_bounds__(kThreads, blocks_of(sizeof(T), kCase))
    encode_columns_by_rows_kernel(const __grid_constant__ SourceView source, const __grid_constant__ CodesView codes,
                                  const __grid_constant__ EncodeView encode,
                                  const __grid_constant__ ScaleView scale_view,
                                  const __grid_constant__ ScalesView scales, const std::int32_t* __restrict__ amax,
                                  FastDivide tiles) {
  __shared__ float multipliers[kTileCols];
  __shared__ bool all_finite[kTileCols];
  __shared__ uint4 tile[kCase == kAnyCase ? 1 : kTileCols * 8];
  const Place at(tiles, 1);
  const Pieces<kCase != kAnyCase, has_folds(kCase), T> pieces(source, at);
  const std::uint32_t first = at.r / kTileCols * kTileCols;
  if (threadIdx.x < kTileCols) {
    const std::uint32_t r = first + threadIdx.x;
    if (r < source.cols) {
      const BlockScale scale = block_scale(scale_view, amax[r], 0.0f, 0.0f, 1.0f);
      multipliers[threadIdx.x] = scale.multiplier;
      all_finite[threadIdx.x] = is_finite_amax(amax[r]);
      if (at.c < kTileRows) scales.store(r, scale.stored, scale.code);
    }
  }
  __syncthreads();
  constexpr bool kBytes = kCase != kAnyCase && kRowCases[kCase < 0 ? 0 : kCase].element == ElementFormat::E4M3;
  const bool staged = kCase != kAnyCase && (kBytes || codes.form == Form::E4M3);
  const TileStore store(tile, 16);
#pragma unroll
  for (std::uint32_t k = 0; k < 2; ++k) {
    const std::uint32_t r = at.r + k;
    if (r >= source.cols || at.c >= source.rows) continue;
    const float m = multipliers[r % kTileCols];
    const bool finite = all_finite[r % kTileCols];
    float y[kPiece];
    float z[kPiece];
    pieces.values(k, y);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) z[i] = y[i] * m;
    std::uint32_t words[4] = {0, 0, 0, 0};
    if constexpr (kCase == kAnyCase) {
      if (is_byte(codes.element)) {
        encode_fp8_sixteen(codes.element, z, y, finite, words);
      } else {
        encode_sixteen(encode, r, at.c, z, m, finite, words);
      }
      store_sixteen(codes, r, at.c, words);
      store_mask(codes, r, at.c, z);
    } else {
      if constexpr (kBytes) {
        encode_fp8_sixteen(ElementFormat::E4M3, z, y, finite, words);
      } else {
        encode_sixteen(as_in<kRowCases, kCase>(encode), r, at.c, z, m, finite, words);
      }
      if (!staged) {
        store_sixteen(as_in<kRowCases, kCase>(codes), r, at.c, words);
      } else if constexpr (kBytes) {
        store.at(r % kTileCols, at.c % kTileRows / 16) = make_uint4(words[0], words[1], words[2], words[3]);
      } else {
        store.at(r % kTileCols, at.c % kTileRows / 16) = make_uint4(
            e2m1_to_e4m3(words[0]), e2m1_to_e4m3(words[0] >> 16), e2m1_to_e4m3(words[1]), e2m1_to_e4m3(words[1] >> 16));
      }
    }
  }
  if (!staged) return;
  __syncthreads();
  store.write(codes.codes, first, source.cols, at.c / kTileRows * kTileRows, codes.row_bytes);
}

void encode_by_rows(const Job& job, FastDivide tiles, unsigned blocks) {
  auto* amax = job.scratch<std::int32_t>(job.rows());
  fill_zero_async(amax, static_cast<std::size_t>(job.rows()) * sizeof(std::int32_t));
  dispatch_float(job.dtype, [&]<class T>(T*) {
    const std::int64_t across = (job.source.cols + kAmaxCols - 1) / kAmaxCols;
    const std::int64_t bands = (job.source.rows + kTileRows - 1) / kTileRows;
    row_amaxes_kernel<T>
        <<<blocks_for(bands * across, 1), kThreads, 0, cuda::stream()>>>(job.source, FastDivide(across), amax);
    cuda::launched("row_amaxes_kernel");
    dispatch_case<kRowCases>(job, [&](auto number) {
      encode_columns_by_rows_kernel<number, T>
          <<<blocks, kThreads, 0, cuda::stream()>>>(job.source, CodesView(job.q, job.form), encode_view(job),
                                                    ScaleView(job.spec), ScalesView(job.q.scales), amax, tiles);
      cuda::launched("encode_columns_by_rows_kernel");
    });
  });
}

/// Pieces of a row of y that must lie in consecutive lanes.
std::uint32_t lanes_of(const Job& job) { return static_cast<std::uint32_t>(columns_of_unit(job) / kPiece); }

}  // namespace

bool fits_columns(const QuantSpec& spec) {
  if (!spec.transposed || spec.clamp.enabled()) return false;
  if (spec.granularity == Granularity::per_row()) {
    return has_scale(spec.element) && spec.scale != ScaleRule::Nvfp4 &&
           quant_cpu::moments_of(spec.scale) == Moments::None && !spec.hadamard.enabled();
  }
  return fits_blocks(spec) && spec.granularity.cols <= kTileRows && spec.hadamard.group <= kTileRows &&
         spec.nvfp4.outer <= kTileRows && (spec.rounding != Rounding::Eden || spec.eden_group <= kTileRows);
}

void columns_amax(const Job& job, std::int32_t* amax, std::int32_t* plain) {
  for (std::int32_t* to : {amax, plain}) {
    if (to != nullptr) fill_zero_async(to, sizeof(std::int32_t));
  }
  const Tiles tiles(job.source);
  dispatch_case<kBlockCases>(job, [&](auto number) {
    dispatch_float(job.dtype, [&]<class T>(T*) {
      columns_amax_kernel<number, T><<<blocks_for(tiles.count, 1), kThreads, 0, cuda::stream()>>>(
          job.source, tiles.across, lanes_of(job), amax, plain);
      cuda::launched("columns_amax_kernel");
    });
  });
}

void encode_columns(const Job& job) {
  const Tiles tiles(job.source);
  const unsigned blocks = blocks_for(tiles.count, 1);
  if (job.spec.granularity == Granularity::per_row()) return encode_by_rows(job, tiles.across, blocks);
  BlocksView view = blocks_view(job);
  if (job.q.device_scale.defined()) {
    view.device_scale = job.q.device_scale.data<float>();
    view.tensor_amax = job.known_amax();
    if (view.tensor_amax == nullptr) {
      auto* amax = job.scratch<std::int32_t>(1);
      columns_amax(job, amax, nullptr);
      view.tensor_amax = amax;
    }
  }
  dispatch_case<kBlockCases>(job, [&](auto number) {
    dispatch_float(job.dtype, [&]<class T>(T*) {
      encode_columns_kernel<number, T>
          <<<blocks, kThreads, 0, cuda::stream()>>>(job.source, view, tiles.across, lanes_of(job));
      cuda::launched("encode_columns_kernel");
    });
  });
}

}  // namespace nibble::quant_cuda
