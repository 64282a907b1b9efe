// The magnitudes of a matrix (PairMagnitudes, quant/quantize.h), found by the kernel that writes it.
//
// A block of eight warps has a strip of 128 rows by 32 kColumns columns: a warp sixteen of the rows, one after the
// other, a lane kColumns columns of each, wherever they lie. Rows are finished by one atomic a row and strip, columns
// by one a column and strip.
#pragma once

#include "nibble/quant/cuda/scales.cuh"
#include "nibble/quant/quantize.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::quant_cuda {

/// PairMagnitudes as a kernel takes them; folds may be null.
struct MagnitudesView {
  const float* col_fold = nullptr;
  const float* row_fold = nullptr;
  std::int32_t* of_rows = nullptr;
  std::int32_t* of_cols = nullptr;

  MagnitudesView() = default;
  explicit MagnitudesView(const PairMagnitudes& m) {
    if (!m.defined()) return;
    constexpr const char* kName = "magnitudes";
    if (m.col_fold.defined()) col_fold = cuda::device_data<float>(m.col_fold, kName);
    if (m.row_fold.defined()) row_fold = cuda::device_data<float>(m.row_fold, kName);
    of_rows = cuda::device_data<std::int32_t>(m.of_rows, kName);
    of_cols = cuda::device_data<std::int32_t>(m.of_cols, kName);
  }
};

inline constexpr int kStripWarps = 8;
inline constexpr int kStripThreads = 32 * kStripWarps;
inline constexpr int kRowsOfWarp = 16;
inline constexpr int kStripRows = kStripWarps * kRowsOfWarp;

/// Of a lane. The folds of its columns are the caller's to load, where there are any.
template <bool kFolds, int kColumns>
class StripMagnitudes {
 public:
  float fold[kColumns] = {};

  /// Of packs of eight columns that lie so far apart.
  __device__ __forceinline__ void load_folds(const float* from, std::uint32_t apart) {
#pragma unroll
    for (int pack = 0; pack < kColumns / 8; ++pack) {
      float eight[8];
      cuda::load_floats(from + pack * apart, eight);
#pragma unroll
      for (int k = 0; k < 8; ++k) fold[8 * pack + k] = eight[k];
    }
  }

  __device__ __forceinline__ void begin_row() { of_row_ = 0; }
  /// y in column k of the lane's, in the row whose fold that is.
  __device__ __forceinline__ void take(int k, float y, float row_fold) {
    of_row_ = larger_magnitude(of_row_, kFolds ? y * fold[k] : y);
    of_cols_[k] = larger_magnitude(of_cols_[k], kFolds ? y * row_fold : y);
  }
  /// Of row i of the warp's; all lanes take part.
  __device__ __forceinline__ void end_row(std::uint32_t i) {
    const std::int32_t amax = __reduce_max_sync(0xFFFF'FFFFu, magnitude_bits(of_row_));
    if (threadIdx.x % 32 == i) rows_ = amax;
  }

  /// At the end, by all threads of the block; `column_of(lane, k)`: where column k of a lane lies, from `cols` on
  /// nowhere. The warp's rows begin at first_row.
  template <class ColumnOf>
  __device__ __forceinline__ void raise(const MagnitudesView& to, std::uint32_t first_row, std::uint32_t rows,
                                        std::uint32_t cols, const ColumnOf& column_of) const {
    __shared__ std::int32_t of_warp[kStripWarps][32 * kColumns];
    const std::uint32_t lane = threadIdx.x % 32;
    const std::uint32_t warp = threadIdx.x / 32;
    if (lane < kRowsOfWarp && first_row + lane < rows) atomicMax(to.of_rows + first_row + lane, rows_);
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {  // neighbouring lanes in neighbouring banks
      of_warp[warp][32 * k + static_cast<int>(lane)] = magnitude_bits(of_cols_[k]);
    }
    __syncthreads();
#pragma unroll
    for (std::uint32_t k = warp; k < kColumns; k += kStripWarps) {
      std::int32_t all = 0;
#pragma unroll
      for (const auto& columns : of_warp) all = max(all, columns[32 * k + lane]);
      const std::uint32_t column = column_of(lane, k);
      if (column < cols) atomicMax(to.of_cols + column, all);
    }
  }

 private:
  float of_row_ = 0;
  float of_cols_[kColumns] = {};
  std::int32_t rows_ = 0;  ///< lane i: of row i
};

}  // namespace nibble::quant_cuda
