// Blocks that lie within a warp: sixteen consecutive columns of y_c a lane, in registers, to scales and codes. A block
// of NVFP4 is one lane's, a block of MXFP4 two lanes'; lanes of a block exchange what they share.
//
//   within a row     blocks of a power of two of columns from 16 up; lanes hold consecutive pieces
//   square           blocks of 16 x 16; sixteen consecutive lanes hold the rows of one block
#pragma once

#include "nibble/quant/cuda/cases.cuh"
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

constexpr int kPiece = 16;

/// The cases of blocks; what transposed operands meet, too.
inline constexpr Case kBlockCases[] = {
    // NVIDIA's NVFP4: activations, gradients, both rotated for wgrad.
    {.block = 16, .nvfp4 = true},
    {.rounding = Rounding::Stochastic8, .block = 16, .nvfp4 = true},
    {.block = 16, .hadamard = 16, .nvfp4 = true},
    {.rounding = Rounding::Stochastic8, .block = 16, .hadamard = 16, .nvfp4 = true},
    {.rounding = Rounding::Stochastic, .block = 16, .nvfp4 = true},
    {.rounding = Rounding::Stochastic, .block = 16, .hadamard = 16, .nvfp4 = true},
    // Quartet II: four-over-six forward, MS-EDEN backward.
    {.block = 16, .nvfp4 = true, .selection = Selection::Mse},
    {.rounding = Rounding::Eden, .block = 16, .hadamard = 128, .nvfp4 = true},
    // MXFP4, and Quartet's forward and backward.
    {.block = 32},
    {.rounding = Rounding::Stochastic, .block = 32},
    {.rounding = Rounding::Stochastic, .block = 32, .hadamard = 32},
    {.rounding = Rounding::NearestZero, .block = 32, .hadamard = 32, .moments = Moments::Signed, .mask = true},
};

struct BlocksView {
  ScaleView scale;
  EncodeView encode;
  CodesView codes;
  ScalesView scales;
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  int block = 0;  ///< columns; a power of two, 2^shift
  int shift = 0;
  int outer = 0;       ///< columns under an outer scale; 0, or a power of two
  int eden_group = 0;  ///< columns under a correction; a power of two
  std::int64_t scale_cols = 0;
  float* outer_scales = nullptr;
  std::int64_t outer_cols = 0;
  const std::int32_t* tensor_amax = nullptr;  ///< Nvfp4 under one scale of the tensor
  float* device_scale = nullptr;
};

template <int kCase>
__device__ __forceinline__ BlocksView in_case(const BlocksView& view) {
  BlocksView fixed = view;
  if constexpr (kCase != kAnyCase) {
    fixed.scale = as_in<kBlockCases, kCase>(view.scale);
    fixed.encode = as_in<kBlockCases, kCase>(view.encode);
    fixed.codes = as_in<kBlockCases, kCase>(view.codes);
    fixed.block = kBlockCases[kCase].block;
    fixed.shift = kBlockCases[kCase].block == 16 ? 4 : 5;
    fixed.outer = 0;
    fixed.eden_group = 16;
  }
  return fixed;
}

/// Folds and transform of a piece that was read, in the order of y; `row` and `col` count rows and columns of y, whose
/// factors those are. Values outside must be zero and stay so. All lanes take part where there is a transform.
template <int kCase>
__device__ __forceinline__ void transform_piece(const SourceView& s, std::uint32_t col, float (&y)[kPiece]) {
  if constexpr (kCase == kAnyCase) {
    if (s.hadamard.group > 0) hadamard_forward(y, s.hadamard, col);
  } else if constexpr (kBlockCases[kCase].hadamard > 0) {
    hadamard_forward<kPiece, kBlockCases[kCase].hadamard>(y, s.hadamard, col);
  }
}

/// y_c, columns [c, c + 16) of row r; zeros where r or c lies outside.
template <int kCase, class T>
__device__ __forceinline__ void read_piece(const SourceView& s, std::uint32_t r, std::uint32_t c, float (&y)[kPiece]) {
  if constexpr (kCase == kAnyCase) {
    float half[2][8];
    read_untransformed<T>(s, r, c, half[0]);
    read_untransformed<T>(s, r, c + 8, half[1]);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) y[i] = half[i / 8][i % 8];
    transform_piece<kCase>(s, c, y);
    if (s.bounds == nullptr || r >= s.rows || c >= s.cols) return;
    clamp_to(y, s.bounds[s.bounds_of_rows ? r : 0]);
    if (c + kPiece <= s.cols) return;
#pragma unroll
    for (std::uint32_t i = 0; i < kPiece; ++i) {
      if (c + i >= s.cols) y[i] = 0.0f;
    }
  } else {
    if (r < s.rows && c < s.cols) {
      const T* row = static_cast<const T*>(s.x) + static_cast<std::int64_t>(r) * s.cols;
      float half[2][8];
      load_eight(row, c, c + 8, true, half[0]);
      load_eight(row, c + 8, c + 16, true, half[1]);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) y[i] = half[i / 8][i % 8];
    } else {
#pragma unroll
      for (int i = 0; i < kPiece; ++i) y[i] = 0.0f;
    }
    transform_piece<kCase>(s, c, y);
  }
}

/// The outer scale of the tensor, worked out once a thread block; the first block also stores it. The barrier before
/// its first use is the caller's.
struct TensorScale {
  float decode;
  float factor;
};
__device__ __forceinline__ void share_tensor_scale(const BlocksView& v, TensorScale& shared) {
  if (v.tensor_amax == nullptr || threadIdx.x != 0) return;
  const quant_cpu::OuterScale outer = outer_scale(v.scale, *v.tensor_amax);
  shared.decode = outer.decode;
  shared.factor = outer.factor;
  if (blockIdx.x == 0) *v.device_scale = outer.decode;
}

enum class BlockShape : std::uint8_t { WithinRow, Square };

/// A sum or maximum over a block, in the CPU's order: of each row as fold_columns has it, then row by row.
template <BlockShape kShape, class Op>
__device__ __forceinline__ float fold_block(float (&v)[kPiece], int columns, Op op) {
  const float of_row = fold_columns(v, columns, op);
  if constexpr (kShape == BlockShape::WithinRow) return of_row;
  float all = 0;
  const int first = static_cast<int>(threadIdx.x) & 16;
#pragma unroll
  for (int row = 0; row < 16; ++row) all = op(all, __shfl_sync(0xFFFF'FFFFu, of_row, first + row));
  return all;
}

/// A scale that is stored in a byte, as a float.
__device__ __forceinline__ float stored_value(const ScaleView& view, std::uint8_t code) {
  if (view.rule == ScaleRule::Nvfp4) return bits_float(static_cast<std::uint32_t>(code) << 20) * 0x1p120f;
  return code == 0 ? 0x1p-127f : bits_float(static_cast<std::uint32_t>(code) << 23);
}

/// Codes of sixteen elements, of four bits in words[0] and [1], packed or as E4M3; the latter is for rows of whole
/// pieces.
__device__ __forceinline__ void store_sixteen(const CodesView& codes, std::uint32_t r, std::uint32_t c,
                                              const std::uint32_t (&words)[4]) {
  std::uint8_t* row = codes.codes + static_cast<std::int64_t>(r) * codes.row_bytes;
  if (codes.form == Form::E4M3) {
    *reinterpret_cast<uint4*>(row + c) = make_uint4(e2m1_to_e4m3(words[0]), e2m1_to_e4m3(words[0] >> 16),
                                                    e2m1_to_e4m3(words[1]), e2m1_to_e4m3(words[1] >> 16));
  } else if (is_byte(codes.element)) {
    if (codes.whole) {
      *reinterpret_cast<uint4*>(row + c) = make_uint4(words[0], words[1], words[2], words[3]);
      return;
    }
    store_codes(codes, r, c, {words[0], words[1]});
    if (codes.whole || c + 8 < codes.cols) store_codes(codes, r, c + 8, {words[2], words[3]});
  } else {
    if (codes.whole) {
      *reinterpret_cast<uint2*>(row + c / 2) = make_uint2(words[0], words[1]);
      return;
    }
    store_codes(codes, r, c, {words[0], 0});
    if (codes.whole || c + 8 < codes.cols) store_codes(codes, r, c + 8, {words[1], 0});
  }
}

__device__ __forceinline__ void store_mask(const CodesView& codes, std::uint32_t r, std::uint32_t c,
                                           const float (&z)[kPiece]) {
  if (codes.mask == nullptr) return;
  const float low[8] = {z[0], z[1], z[2], z[3], z[4], z[5], z[6], z[7]};
  const float high[8] = {z[8], z[9], z[10], z[11], z[12], z[13], z[14], z[15]};
  store_mask(codes, r, c, low);
  if (codes.whole || c + 8 < codes.cols) store_mask(codes, r, c + 8, high);
}

/// Sixteen E2M1 codes as BF16 values under a scale.
__device__ __forceinline__ void bf16_values(const std::uint32_t (&words)[4], float scale, uint4 (&values)[2]) {
  const __nv_bfloat162 factor = __float2bfloat162_rn(scale);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    std::uint32_t pairs[4];
    e2m1_to_bf16(words[half], factor, pairs);
    e2m1_to_bf16(words[half] >> 16, factor, pairs + 2);
    values[half] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}

/// The same in the form that they are stored in; BF16's is for rows of whole pieces, too.
__device__ __forceinline__ void store_piece(const BlocksView& v, std::uint32_t r, std::uint32_t c,
                                            const std::uint32_t (&words)[4], std::uint8_t scale) {
  if (v.codes.form != Form::BF16) return store_sixteen(v.codes, r, c, words);
  uint4 values[2];
  bf16_values(words, stored_value(v.scale, scale), values);
  auto* to = reinterpret_cast<uint4*>(v.codes.codes + static_cast<std::int64_t>(r) * v.codes.row_bytes +
                                      2 * static_cast<std::int64_t>(c));
  to[0] = values[0];
  to[1] = values[1];
}

/// Columns [c, c + 16) of row r: stores their mask and the scales of blocks that begin there, and hands their codes,
/// with the scale's, to `store`. Within rows, blocks and groups begin at lanes that are multiples of their size. All
/// lanes take part, those outside with zeros.
template <BlockShape kShape, class Store>
__device__ __forceinline__ void encode_piece(const BlocksView& v, const TensorScale& tensor, std::uint32_t r,
                                             std::uint32_t c, const float (&y)[kPiece], const Store& store) {
  const bool inside = r < v.rows && c < v.cols;
  const std::uint32_t j = c >> v.shift;
  std::int32_t amax = amax_bits(y);
  const int lanes_of_block = kShape == BlockShape::Square ? 16 : v.block / kPiece;
  for (int lanes = 1; lanes < lanes_of_block; lanes *= 2) {
    amax = max(amax, __shfl_xor_sync(0xFFFF'FFFFu, amax, lanes));
  }
  float stored = 0;
  float multiplier = 0;
  std::uint8_t code = 0;
  if (v.scale.rule == ScaleRule::Nvfp4) {
    quant_cpu::OuterScale outer{tensor.decode, tensor.factor};
    if (v.outer > 0) {
      std::int32_t most = amax;
      for (int lanes = v.block / kPiece; kPiece * lanes < v.outer; lanes *= 2) {
        most = max(most, __shfl_xor_sync(0xFFFF'FFFFu, most, lanes));
      }
      outer = outer_scale(v.scale, most);
      if (inside && (c & static_cast<unsigned>(v.outer - 1)) == 0) {
        v.outer_scales[static_cast<std::int64_t>(r) * v.outer_cols + c / static_cast<unsigned>(v.outer)] = outer.decode;
      }
    }
    Nvfp4Candidate six = nvfp4_candidate(v.scale, amax, outer, 1.0f);
    if (v.scale.selection != Selection::None) {
      const Nvfp4Candidate four = nvfp4_candidate(v.scale, amax, outer, 1.5f);
      const Gather gather{v.scale.selection == Selection::MaxAbs};
      float errors[kPiece];
#pragma unroll
      for (int i = 0; i < kPiece; ++i) errors[i] = selection_error(v.scale, y[i], six);
      const float error6 = fold_block<kShape>(errors, v.block, gather);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) errors[i] = selection_error(v.scale, y[i], four);
      if (fold_block<kShape>(errors, v.block, gather) < error6) six = four;
    }
    code = six.code;
    multiplier = six.multiplier;
  } else {
    float sum = 0;
    float squares = 0;
    if (v.scale.moments != Moments::None) {
      float part[kPiece];
#pragma unroll
      for (int i = 0; i < kPiece; ++i) part[i] = v.scale.moments == Moments::Absolute ? fabsf(y[i]) : y[i];
      sum = fold_block<kShape>(part, v.block, AddOp());
#pragma unroll
      for (int i = 0; i < kPiece; ++i) part[i] = y[i] * y[i];
      squares = fold_block<kShape>(part, v.block, AddOp());
    }
    std::uint32_t count = inside ? min(static_cast<unsigned>(v.block), v.cols - (j << v.shift)) : 1;
    if constexpr (kShape == BlockShape::Square) count *= inside ? min(16u, v.rows - r / 16 * 16) : 1;
    const BlockScale scale = block_scale(v.scale, amax, sum, squares, static_cast<float>(count));
    stored = scale.stored;
    code = scale.code;
    multiplier = scale.multiplier;
  }

  float z[kPiece];
#pragma unroll
  for (int i = 0; i < kPiece; ++i) z[i] = y[i] * multiplier;
  std::uint32_t words[4] = {0, 0, 0, 0};
  if (is_byte(v.codes.element)) {
    encode_fp8_sixteen(v.codes.element, z, y, is_finite_amax(amax), words);
  } else {
    encode_sixteen(v.encode, r, c, z, multiplier, is_finite_amax(amax), words);
  }
  if (v.encode.rounding == Rounding::Eden) {
    float squares[kPiece];
    float products[kPiece];
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      squares[i] = z[i] * z[i];
      if constexpr (kHasE2m1Conversion) {
        products[i] = z[i] * decode_e2m1(words[i / 8] >> (4 * (i % 8)));
      } else {  // the code was counted so, and has the sign of z
        products[i] = fabsf(z[i]) * e2m1_nearest_magnitude<Tie::Even>(z[i]);
      }
    }
    const float sum = fold_columns(squares, v.eden_group, AddOp());
    const float product = fold_columns(products, v.eden_group, AddOp());
    const std::uint64_t first_block = (v.encode.first + v.encode.stride * r) / 16;
    code = eden_scale(code, sum, product, random_word(v.encode.random, first_block + j));
  }
  if (!inside) return;
  if (v.codes.form != Form::BF16) {
    const std::uint32_t band = kShape == BlockShape::Square ? r / 16 : r;
    const bool first = kShape == BlockShape::Square ? threadIdx.x % 16 == 0 : c == j << v.shift;
    if (first) v.scales.store(static_cast<std::int64_t>(band) * v.scale_cols + j, stored, code);
  }
  store(words, code);
  store_mask(v.codes, r, c, z);
}

// blocks.cu
/// The view of a job, all but the tensor's amax and scale.
BlocksView blocks_view(const Job& job);
/// Columns that must begin at the same lane: of a block, a transform, ...
int columns_of_unit(const Job& job);

}  // namespace nibble::quant_cuda
