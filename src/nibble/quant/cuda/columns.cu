// A transposed operand, read by columns: a thread takes sixteen rows by two columns of x, which are two pieces of rows
// of y, in registers. x is read once (under one scale of the tensor or of a row of y, once more for amax) and no
// transpose is stored. Bound by memory.
//
// A thread block takes 128 rows by 64 columns of x. Where `lanes` pieces of a row of y must lie in consecutive lanes
// (blocks, transforms), a warp has 32 / lanes pairs of columns:
//
//   lanes 1   a warp reads 16 rows of 128 bytes (BF16) or 256 (F32), its stores are 8, 16 or 32 bytes of 64 rows of y
//   lanes 8   a warp reads 128 rows of 16 or 32 bytes; its neighbours read the rest of a cache line from L1
#include "nibble/quant/cuda/piece.cuh"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kTileRows = 128;  ///< of x
constexpr int kTileCols = 64;
constexpr int kAmaxCols = 256;

/// Where a thread's pieces lie: columns [c, c + 16) of rows r and r + 1 of y.
struct Place {
  std::uint32_t r = 0;
  std::uint32_t c = 0;
  __device__ __forceinline__ Place(FastDivide tiles, std::uint32_t lanes) {
    const std::uint32_t band = tiles.quotient(blockIdx.x);
    const std::uint32_t warp = threadIdx.x / 32;
    const std::uint32_t lane = threadIdx.x % 32;
    const std::uint32_t pairs = 32 / lanes;  // of a warp
    r = kTileCols * (blockIdx.x - band * tiles.divisor()) + 2 * (warp % lanes * pairs + lane / lanes);
    c = kTileRows * band + kPiece * (warp / lanes * lanes + lane % lanes);
  }
};

/// Two columns of x at once, as they are read.
template <class T>
struct Pair;
template <>
struct Pair<bf16> {
  using Raw = std::uint32_t;
  static __device__ __forceinline__ float value(Raw raw, std::uint32_t k) {
    return bits_float(k == 0 ? raw << 16 : raw & 0xFFFF'0000u);
  }
};
template <>
struct Pair<float> {
  using Raw = float2;
  static __device__ __forceinline__ float value(Raw raw, std::uint32_t k) { return k == 0 ? raw.x : raw.y; }
};

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

/// Bytes of a thread block's tile of y, on their way through shared memory: a warp's own stores would touch a cache
/// line a lane. A row of the tile is eight pieces of 16 or 32 bytes; their order within the row, mixed by its number,
/// spreads what neighbouring lanes store over the banks.
class TileStore {
 public:
  /// `tile` has 64 rows of 8 x piece_bytes.
  __device__ __forceinline__ TileStore(uint4* tile, int piece_bytes) : tile_(tile), chunks_(piece_bytes / 2) {}

  /// Chunk `chunk` of 16 bytes of a row.
  __device__ __forceinline__ uint4& at(std::uint32_t row, std::uint32_t chunk) const {
    return tile_[row * chunks_ + (chunk ^ (row >> 1 & 7u))];
  }

  /// All of it to row `r` on of y, from byte `begin` of the rows on; y has `rows` rows of `row_bytes`.
  __device__ __forceinline__ void write(std::uint8_t* y, std::uint32_t r, std::uint32_t rows, std::int64_t begin,
                                        std::int64_t row_bytes) const {
    for (std::uint32_t i = threadIdx.x; i < kTileCols * chunks_; i += kThreads) {
      const std::uint32_t row = i / chunks_;
      const std::uint32_t chunk = i % chunks_;
      const std::int64_t byte = begin + 16 * static_cast<std::int64_t>(chunk);
      if (r + row >= rows || byte >= row_bytes) continue;
      *reinterpret_cast<uint4*>(y + static_cast<std::int64_t>(r + row) * row_bytes + byte) = at(row, chunk);
    }
  }

 private:
  uint4* tile_;
  std::uint32_t chunks_;
};

/// Blocks of 256 threads that shall fit a multiprocessor: what the registers of raw pieces allow.
constexpr int blocks_of(std::size_t element, int number) { return number == kAnyCase ? 2 : element == 2 ? 4 : 3; }

template <int kCase, class T>
__global__ void __launch_bounds__(kThreads, blocks_of(sizeof(T), kCase))
    encode_columns_kernel(const __grid_constant__ SourceView source, const __grid_constant__ BlocksView view,
                          FastDivide tiles, std::uint32_t lanes) {
  __shared__ TensorScale tensor;
  __shared__ uint4 tile[kCase == kAnyCase ? 1 : kTileCols * 16];
  const Place at(tiles, lanes);
  const Pieces<kCase != kAnyCase, kCase == kAnyCase, T> pieces(source, at);
  share_tensor_scale(view, tensor);
  __syncthreads();
  const BlocksView fixed = in_case<kCase>(view);
  const bool staged = kCase != kAnyCase && view.codes.form == Form::BF16;
  const TileStore store(tile, 32);
#pragma unroll
  for (std::uint32_t k = 0; k < 2; ++k) {
    float y[kPiece];
    pieces.values(k, y);
    transform_piece<kCase>(source, at.c, y);
    encode_piece<BlockShape::WithinRow>(fixed, tensor, at.r + k, at.c, y,
                                        [&](const std::uint32_t(&words)[4], std::uint8_t scale) {
                                          if (!staged) return store_piece(fixed, at.r + k, at.c, words, scale);
                                          uint4 values[2];
                                          bf16_values(words, stored_value(fixed.scale, scale), values);
                                          const std::uint32_t row = (at.r + k) % kTileCols;
                                          const std::uint32_t chunk = at.c % kTileRows / 8;
                                          store.at(row, chunk) = values[0];
                                          store.at(row, chunk + 1) = values[1];
                                        });
  }
  if (!staged) return;
  __syncthreads();
  store.write(view.codes.codes, at.r / kTileCols * kTileCols, view.rows, 2 * std::int64_t{at.c / kTileRows * kTileRows},
              view.codes.row_bytes);
}

/// The amax of all of y.
template <int kCase, class T>
__global__ void __launch_bounds__(kThreads, blocks_of(sizeof(T), kCase))
    columns_amax_kernel(const __grid_constant__ SourceView source, FastDivide tiles, std::uint32_t lanes,
                        std::int32_t* amax) {
  const Place at(tiles, lanes);
  const Pieces<kCase != kAnyCase, kCase == kAnyCase, T> pieces(source, at);
  std::int32_t most = 0;
#pragma unroll
  for (std::uint32_t k = 0; k < 2; ++k) {
    float y[kPiece];
    pieces.values(k, y);
    transform_piece<kCase>(source, at.c, y);
    most = max(most, amax_bits(y));
  }
  most = __reduce_max_sync(0xFFFF'FFFFu, most);
  if (threadIdx.x % 32 == 0) atomicMax(amax, most);
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

void encode_columns(const Job& job) {
  const std::int64_t across = (job.source.cols + kTileCols - 1) / kTileCols;
  const std::int64_t bands = (job.source.rows + kTileRows - 1) / kTileRows;
  const FastDivide tiles(across);
  const unsigned blocks = blocks_for(bands * across, 1);
  if (job.spec.granularity == Granularity::per_row()) return encode_by_rows(job, tiles, blocks);
  BlocksView view = blocks_view(job);
  const auto lanes = static_cast<std::uint32_t>(columns_of_unit(job) / kPiece);
  auto* amax = job.q.device_scale.defined() ? job.scratch<std::int32_t>(1) : nullptr;
  view.tensor_amax = amax;
  if (amax != nullptr) {
    view.device_scale = job.q.device_scale.data<float>();
    fill_zero_async(amax, sizeof(std::int32_t));
  }
  dispatch_case<kBlockCases>(job, [&](auto number) {
    dispatch_float(job.dtype, [&]<class T>(T*) {
      if (amax != nullptr) {
        columns_amax_kernel<number, T><<<blocks, kThreads, 0, cuda::stream()>>>(job.source, tiles, lanes, amax);
        cuda::launched("columns_amax_kernel");
      }
      encode_columns_kernel<number, T><<<blocks, kThreads, 0, cuda::stream()>>>(job.source, view, tiles, lanes);
      cuda::launched("encode_columns_kernel");
    });
  });
}

}  // namespace nibble::quant_cuda
