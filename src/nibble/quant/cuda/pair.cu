// Two operands of one tensor, whose passes over it are shared.
//
// FP8 by rows and by columns: one pass finds the amax of every row and column, a second one writes both forms, so x is
// read twice instead of three or four times (once each where a row fits in registers, twice for the columns). Both
// passes are bound by memory. Nvfp4: one pass for both tensors' amax (columns.cu), then each encodes by itself.
#include "nibble/quant/backend.h"
#include "nibble/quant/cpu/validate.h"
#include "nibble/quant/cuda/columns.cuh"
#include "nibble/quant/cuda/magnitudes.cuh"

namespace nibble::quant_cuda {

namespace {

constexpr int kAmaxCols = 256;  ///< of x a thread block, eight a lane

/// x [rows, cols], both multiples of 16, every row beginning at a multiple of 16 bytes; and what becomes of it.
struct PairView {
  const void* x = nullptr;
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  const float* col_fold = nullptr;  ///< of the operand by rows, [cols]
  const float* row_fold = nullptr;  ///< of the operand by columns, [rows]
  float element_max = 0;
  const std::int32_t* row_amax = nullptr;  ///< [rows]
  const std::int32_t* col_amax = nullptr;  ///< [cols]
  std::uint8_t* by_rows = nullptr;         ///< [rows, cols]
  std::uint8_t* by_cols = nullptr;         ///< [cols, rows]
  float* row_scales = nullptr;
  float* col_scales = nullptr;
};

/// Sixteen bytes of a row.
template <class T>
struct Chunk;
template <>
struct Chunk<bf16> {
  static constexpr int kPer = 8;
  static __device__ __forceinline__ void load(const bf16* from, float* y) {
    const uint4 raw = __ldg(reinterpret_cast<const uint4*>(from));
    const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      y[2 * i] = bits_float(words[i] << 16);
      y[2 * i + 1] = bits_float(words[i] & 0xFFFF'0000u);
    }
  }
};
template <>
struct Chunk<float> {
  static constexpr int kPer = 4;
  static __device__ __forceinline__ void load(const float* from, float* y) {
    const float4 raw = __ldg(reinterpret_cast<const float4*>(from));
    y[0] = raw.x, y[1] = raw.y, y[2] = raw.z, y[3] = raw.w;
  }
};

/// Both amaxes of a strip of 256 columns, of which a lane has chunks that lie a warp's chunks apart.
template <bool kFolds, class T>
__global__ void __launch_bounds__(kStripThreads)
    pair_amax_kernel(const T* x, std::uint32_t rows, std::uint32_t cols,
                     const __grid_constant__ MagnitudesView magnitudes, FastDivide across) {
  constexpr int kPer = Chunk<T>::kPer;
  const std::uint32_t band = across.quotient(blockIdx.x);
  const std::uint32_t first_col = kAmaxCols * (blockIdx.x - band * across.divisor());
  const std::uint32_t first_row = kStripRows * band + kRowsOfWarp * (threadIdx.x / 32);
  const auto column_of = [=](std::uint32_t lane, std::uint32_t k) {
    return first_col + kPer * (lane + 32 * (k / kPer)) + k % kPer;
  };
  const std::uint32_t lane = threadIdx.x % 32;
  StripMagnitudes<kFolds, 8> found;
  if constexpr (kFolds) {
#pragma unroll
    for (std::uint32_t k = 0; k < 8; k += 4) {
      if (column_of(lane, k) < cols) Chunk<float>::load(magnitudes.col_fold + column_of(lane, k), found.fold + k);
    }
  }
#pragma unroll 4
  for (std::uint32_t i = 0; i < kRowsOfWarp; ++i) {
    const std::uint32_t r = first_row + i;
    float y[8] = {};
#pragma unroll
    for (std::uint32_t k = 0; k < 8; k += kPer) {
      const std::uint32_t c = column_of(lane, k);
      if (r < rows && c < cols) Chunk<T>::load(x + static_cast<std::int64_t>(r) * cols + c, y + k);
    }
    const float row_fold = kFolds && r < rows ? __ldg(magnitudes.row_fold + r) : 1.0f;
    found.begin_row();
#pragma unroll
    for (int k = 0; k < 8; ++k) found.take(k, y[k], row_fold);
    found.end_row(i);
  }
  found.raise(magnitudes, first_row, rows, cols, column_of);
}

/// Whether fp8_pair loses a sign: that of a y which is not a number once it is scaled.
__device__ __forceinline__ bool loses_sign(float y, float m) { return isnan(y * m) && float_signbit(y); }

/// Both forms of a tile of 128 x 64 (columns.cuh). A warp holds sixteen rows of 64 columns: of the form by rows it
/// stores 64 bytes at a time, the other goes through shared memory. Tiles are taken from the last one on: the end of x
/// is what the pass before left in L2.
template <bool kFolds, ElementFormat kElement, class T>
__global__ void __launch_bounds__(kTileThreads, sizeof(T) == 2 ? 4 : 3)
    encode_pair_kernel(const __grid_constant__ PairView v, FastDivide across) {
  using Raw = typename Pair<T>::Raw;
  struct Factors {
    float multiplier[kTileRows];
    float fold[kTileRows];
  };
  __shared__ Factors of_row;
  __shared__ Factors of_col;
  __shared__ uint4 tile[kTileCols * kTileRows / 16];
  const Place at(across, 1, gridDim.x - 1 - blockIdx.x);
  const std::uint32_t first_col = at.r / kTileCols * kTileCols;
  const std::uint32_t first_row = at.c / kTileRows * kTileRows;
  const bool inside = at.r < v.cols && at.c < v.rows;
  Raw raw[kPiece];
  const std::int64_t start = static_cast<std::int64_t>(at.c) * v.cols + at.r;
#pragma unroll
  for (std::uint32_t i = 0; i < kPiece; ++i) {
    const T* from = static_cast<const T*>(v.x) + start + static_cast<std::int64_t>(i) * v.cols;
    raw[i] = inside ? __ldg(reinterpret_cast<const Raw*>(from)) : Raw();
  }

  bool finite = true;
  const bool is_row = threadIdx.x < kTileRows;
  const std::uint32_t within = is_row ? threadIdx.x : threadIdx.x - kTileRows;
  const std::uint32_t number = (is_row ? first_row : first_col) + within;
  if (is_row ? number < v.rows : within < kTileCols && number < v.cols) {
    const std::int32_t amax = (is_row ? v.row_amax : v.col_amax)[number];
    const BlockScale scale = f32_scale(amax_value(amax) / v.element_max);
    finite = is_finite_amax(amax);
    Factors& factors = is_row ? of_row : of_col;
    factors.multiplier[within] = scale.multiplier;
    if constexpr (kFolds) factors.fold[within] = (is_row ? v.row_fold : v.col_fold)[number];
    // Of a band of tiles the first one stores the rows' scales, of a stack of them the columns'.
    if ((is_row ? first_col : first_row) == 0) (is_row ? v.row_scales : v.col_scales)[number] = scale.stored;
  }
  const bool all_finite = __syncthreads_and(finite) != 0;

  const std::uint32_t row = at.c - first_row;
  const std::uint32_t col = at.r - first_col;
  const TileStore store(tile, 16);
  if (inside) {
#pragma unroll
    for (std::uint32_t k = 0; k < 2; ++k) {
      const float m = of_col.multiplier[col + k];
      std::uint32_t words[4] = {};
#pragma unroll
      for (std::uint32_t i = 0; i < kPiece; i += 2) {
        float y[2] = {Pair<T>::value(raw[i], k), Pair<T>::value(raw[i + 1], k)};
        if constexpr (kFolds) y[0] *= of_row.fold[row + i], y[1] *= of_row.fold[row + i + 1];
        words[i / 4] |= fp8_pair(kElement, y[0] * m, y[1] * m) << (8 * (i % 4));
      }
      store.at(col + k, row / kPiece) = make_uint4(words[0], words[1], words[2], words[3]);
    }
#pragma unroll
    for (std::uint32_t i = 0; i < kPiece; ++i) {
      const float m = of_row.multiplier[row + i];
      float y[2] = {Pair<T>::value(raw[i], 0), Pair<T>::value(raw[i], 1)};
      if constexpr (kFolds) y[0] *= of_col.fold[col], y[1] *= of_col.fold[col + 1];
      *reinterpret_cast<std::uint16_t*>(v.by_rows + start + static_cast<std::int64_t>(i) * v.cols) =
          static_cast<std::uint16_t>(fp8_pair(kElement, y[0] * m, y[1] * m));
    }
    if (!all_finite) {
#pragma unroll 1
      for (std::uint32_t j = 0; j < 2 * kPiece; ++j) {
        const std::uint32_t i = j / 2;
        const std::uint32_t k = j % 2;
        const std::int64_t at_x = start + static_cast<std::int64_t>(i) * v.cols + k;
        const float x = to_float(static_cast<const T*>(v.x)[at_x]);
        const float y_of_row = kFolds ? x * of_col.fold[col + k] : x;
        const float y_of_col = kFolds ? x * of_row.fold[row + i] : x;
        if (loses_sign(y_of_row, of_row.multiplier[row + i])) v.by_rows[at_x] |= 0x80u;
        if (loses_sign(y_of_col, of_col.multiplier[col + k])) {
          reinterpret_cast<std::uint8_t*>(&store.at(col + k, row / kPiece))[i] |= 0x80u;
        }
      }
    }
  }
  __syncthreads();
  store.write(v.by_cols, first_col, v.cols, first_row, v.rows);
}

template <bool kFolds, ElementFormat kElement, class T>
void encode_pair(const PairView& v, const Tiles& tiles) {
  encode_pair_kernel<kFolds, kElement, T>
      <<<blocks_for(tiles.count, 1), kTileThreads, 0, cuda::stream()>>>(v, tiles.across);
  cuda::launched("encode_pair_kernel");
}

/// FP8 elements under an Absmax scale a row of the result.
bool is_fp8_by_rows(const QuantSpec& spec, DType x) {
  return (spec.element == ElementFormat::E4M3 || spec.element == ElementFormat::E5M2) &&
         spec.granularity == Granularity::per_row() && spec.scale == ScaleRule::Absmax && !spec.hadamard.enabled() &&
         !spec.clamp.enabled() && (!spec.bf16_input || x == DType::BF16);
}

/// Whether the kernels above have the pair, by all but where x lies; b is stored as its transpose.
bool fits_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
               const QuantizeContext& in_b) {
  const bool folds_fit = !in_a.row_fold.defined() && !in_b.col_fold.defined() &&
                         in_a.col_fold.defined() == in_b.row_fold.defined() &&
                         reinterpret_cast<std::uintptr_t>(in_a.col_fold.raw()) % 16 == 0;
  return x.numel() > 0 && x.rows() % kPiece == 0 && x.cols() % kPiece == 0 && plain_source(x).wide && folds_fit &&
         !a.transposed && is_fp8_by_rows(a, x.dtype()) && in_b.for_product && can_be_turned(b) &&
         is_fp8_by_rows(turned(b), x.dtype()) && a.element == b.element;
}

/// Zeros.
PairMagnitudes magnitudes_for(const Tensor& x, const QuantizeContext& in_a, const QuantizeContext& in_b, Arena& arena) {
  const Tensor both = arena.allocate(DType::I32, {x.rows() + x.cols()});
  fill_zero_async(both.raw(), both.bytes());
  return {in_a.col_fold, in_b.row_fold, both.elements(0, x.rows()), both.elements(x.rows(), x.rows() + x.cols())};
}

QuantizedPair quantize_fp8_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                                const QuantizeContext& in_b, Arena& arena, const PairMagnitudes& known) {
  require(arena.device() == Device::Cuda, "quantize_pair of {} wants an arena on the GPU", to_string(x));
  QuantizedPair q{empty_result(a, x.rows(), x.cols()), empty_result(turned(b), x.cols(), x.rows())};
  q.second.turned = true;
  allocate_parts(q.first, false, arena);
  allocate_parts(q.second, false, arena);
  const ArenaScope scope(arena);
  require(
      !known.defined() || (known.col_fold.raw() == in_a.col_fold.raw() && known.row_fold.raw() == in_b.row_fold.raw()),
      "quantize_pair of {}: the magnitudes are those of other folds", to_string(x));
  const PairMagnitudes magnitudes = known.defined() ? known : magnitudes_for(x, in_a, in_b, arena);
  if (!known.defined()) cuda::raise_magnitudes(x, magnitudes);
  const SourceView source = plain_source(x);
  const MagnitudesView found(magnitudes);
  PairView v;
  v.x = source.x;
  v.rows = source.rows;
  v.cols = source.cols;
  v.col_fold = fold_data(in_a.col_fold, x.cols(), "col_fold");
  v.row_fold = fold_data(in_b.row_fold, x.rows(), "row_fold");
  v.element_max = element_max(a.element);
  v.row_amax = found.of_rows;
  v.col_amax = found.of_cols;
  v.by_rows = q.first.codes.data<std::uint8_t>();
  v.by_cols = q.second.codes.data<std::uint8_t>();
  v.row_scales = q.first.scales.data<float>();
  v.col_scales = q.second.scales.data<float>();
  const Tiles tiles(source);
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    const bool folds = v.col_fold != nullptr;
    if (a.element == ElementFormat::E4M3) {
      folds ? encode_pair<true, ElementFormat::E4M3, T>(v, tiles)
            : encode_pair<false, ElementFormat::E4M3, T>(v, tiles);
    } else {
      folds ? encode_pair<true, ElementFormat::E5M2, T>(v, tiles)
            : encode_pair<false, ElementFormat::E5M2, T>(v, tiles);
    }
  });
  return q;
}

bool has_tensor_scale(const QuantSpec& spec, const QuantizeContext& context) {
  return spec.scale == ScaleRule::Nvfp4 && spec.nvfp4.outer == 0 && !spec.clamp.enabled() &&
         !context.row_fold.defined() && !context.col_fold.defined();
}

/// Whether columns_amax finds what both ask for.
bool fits_amax_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                    const QuantizeContext& in_b) {
  return x.numel() > 0 && x.rows() % std::max<std::int64_t>(1, b.hadamard.group) == 0 && has_tensor_scale(a, in_a) &&
         has_tensor_scale(b, in_b) && !a.transposed && !a.hadamard.enabled() && (fits_blocks(a) || fits_squares(a)) &&
         fits_columns(b) && (a.bf16_input == b.bf16_input || x.dtype() == DType::BF16);
}

}  // namespace

}  // namespace nibble::quant_cuda

namespace nibble {

QuantizedPair cuda::quantize_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                                  const QuantizeContext& in_b, Arena& arena, const PairMagnitudes& known) {
  quant_cpu::validate(x, a, in_a);
  quant_cpu::validate(x, b, in_b);
  if (quant_cuda::fits_pair(x, a, in_a, b, in_b)) {
    return quant_cuda::quantize_fp8_pair(x, a, in_a, b, in_b, arena, known);
  }
  QuantizeContext first = in_a;
  QuantizeContext second = in_b;
  if (!first.amax.defined() && !second.amax.defined()) {
    const AmaxPair amax = cuda::amax_pair(x, a, in_a, b, in_b, arena);
    first.amax = amax.first;
    second.amax = amax.second;
  }
  QTensor q = cuda::quantize(x, a, first, arena);
  return {std::move(q), cuda::quantize(x, b, second, arena)};
}

PairMagnitudes cuda::pair_magnitudes(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a,
                                     const QuantSpec& b, const QuantizeContext& in_b, Arena& arena) {
  if (!quant_cuda::fits_pair(x, a, in_a, b, in_b)) return {};
  return quant_cuda::magnitudes_for(x, in_a, in_b, arena);
}

void cuda::raise_magnitudes(const Tensor& x, const PairMagnitudes& magnitudes) {
  using namespace quant_cuda;
  require(x.rows() % kPiece == 0 && x.cols() % kPiece == 0 && plain_source(x).wide, "raise_magnitudes of {}",
          to_string(x));
  if (x.numel() == 0) return;
  const MagnitudesView view(magnitudes);
  const std::int64_t across = (x.cols() + kAmaxCols - 1) / kAmaxCols;
  const unsigned blocks = blocks_for(across * ((x.rows() + kStripRows - 1) / kStripRows), 1);
  const auto rows = static_cast<std::uint32_t>(x.rows());
  const auto cols = static_cast<std::uint32_t>(x.cols());
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    const auto* from = device_data<T>(x, "raise_magnitudes");
    if (view.col_fold != nullptr) {
      pair_amax_kernel<true, T><<<blocks, kStripThreads, 0, stream()>>>(from, rows, cols, view, FastDivide(across));
    } else {
      pair_amax_kernel<false, T><<<blocks, kStripThreads, 0, stream()>>>(from, rows, cols, view, FastDivide(across));
    }
  });
  launched("pair_amax_kernel");
}

AmaxPair cuda::amax_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                         const QuantizeContext& in_b, Arena& arena) {
  if (!quant_cuda::fits_amax_pair(x, a, in_a, b, in_b)) return {};
  const Tensor both = arena.allocate(DType::I32, {2});
  QTensor q = quant_cuda::empty_result(b, x.cols(), x.rows());
  quant_cuda::Job job{b, in_b, q, arena, x.dtype(), quant_cuda::plain_source(x)};
  job.source.round_to_bf16 = b.bf16_input && x.dtype() == DType::F32;
  job.source.hadamard = quant_cuda::hadamard_factors(b.hadamard, in_b.signs);
  auto* amax = both.data<std::int32_t>();
  quant_cuda::columns_amax(job, amax + 1, amax);
  return {both.elements(0, 1), both.elements(1, 2)};
}

}  // namespace nibble
