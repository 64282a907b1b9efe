// Scales and codes of blocks that lie within a warp, from y_c in registers, eight consecutive columns a lane.
// Lanes of a block exchange what they share: maxima, sums, the outer scale.
//
//   within a row     blocks of a power of two of columns; lanes hold consecutive pieces
//   square           blocks of 16 x 16; lane 2 i + h holds half h of row i of one block
#pragma once

#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

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

/// A sum or maximum over a block, in the CPU's order: of each row as lane_fold has it, then row by row.
template <BlockShape kShape, class Op>
__device__ __forceinline__ float fold_block(float (&v)[8], int columns, Op op) {
  const float of_row = lane_fold(v, columns, op);
  if constexpr (kShape == BlockShape::WithinRow) return of_row;
  float all = 0;
#pragma unroll
  for (int row = 0; row < 16; ++row) all = op(all, __shfl_sync(0xFFFF'FFFFu, of_row, 2 * row));
  return all;
}

/// Columns [c, c + 8) of row r: stores their codes and mask, and the scales of blocks that begin there. Within rows,
/// blocks and groups begin at lanes that are multiples of their size. All lanes take part, those outside with zeros.
template <BlockShape kShape>
__device__ __forceinline__ void encode_piece(const BlocksView& v, const TensorScale& tensor, std::uint32_t r,
                                             std::uint32_t c, const float (&y)[8]) {
  const bool inside = r < v.rows && c < v.cols;
  const std::uint32_t j = c >> v.shift;
  std::int32_t amax = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) amax = max(amax, magnitude_bits(y[i]));
  const int lanes_of_block = kShape == BlockShape::Square ? 32 : v.block / 8;
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
      for (int lanes = v.block / 8; 8 * lanes < v.outer; lanes *= 2) {
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
      float errors[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) errors[i] = selection_error(v.scale, y[i], six);
      const float error6 = fold_block<kShape>(errors, v.block, gather);
#pragma unroll
      for (int i = 0; i < 8; ++i) errors[i] = selection_error(v.scale, y[i], four);
      if (fold_block<kShape>(errors, v.block, gather) < error6) six = four;
    }
    code = six.code;
    multiplier = six.multiplier;
  } else {
    float sum = 0;
    float squares = 0;
    if (v.scale.moments != quant_cpu::Moments::None) {
      float part[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) part[i] = v.scale.moments == quant_cpu::Moments::Absolute ? fabsf(y[i]) : y[i];
      sum = fold_block<kShape>(part, v.block, AddOp());
#pragma unroll
      for (int i = 0; i < 8; ++i) part[i] = y[i] * y[i];
      squares = fold_block<kShape>(part, v.block, AddOp());
    }
    std::uint32_t count = inside ? min(static_cast<unsigned>(v.block), v.cols - (j << v.shift)) : 1;
    if constexpr (kShape == BlockShape::Square) count *= inside ? min(16u, v.rows - r / 16 * 16) : 1;
    const BlockScale scale = block_scale(v.scale, amax, sum, squares, static_cast<float>(count));
    stored = scale.stored;
    code = scale.code;
    multiplier = scale.multiplier;
  }

  float z[8];
  float m[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    m[i] = multiplier;
    z[i] = y[i] * multiplier;
  }
  std::uint32_t words[2] = {0, 0};
  if (v.codes.element == ElementFormat::E4M3 || v.codes.element == ElementFormat::E5M2) {
    encode_fp8(v.codes.element, z, y, words);
  } else {
    words[0] = encode_four_bit(v.encode, r, c, z, m);
  }
  if (v.encode.rounding == Rounding::Eden) {
    float squares[8];
    float products[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      squares[i] = z[i] * z[i];
      products[i] = z[i] * decode_e2m1(words[0] >> (4 * i));
    }
    const float sum = lane_fold(squares, v.eden_group, AddOp());
    const float product = lane_fold(products, v.eden_group, AddOp());
    const std::uint64_t first_block = (v.encode.first + v.encode.stride * r) / 16;
    code = eden_scale(code, sum, product, v.encode.random.word(first_block + j));
  }
  if (!inside) return;
  const std::uint32_t band = kShape == BlockShape::Square ? r / 16 : r;
  const bool first = kShape == BlockShape::Square ? threadIdx.x % 32 == 0 : c == j << v.shift;
  if (first) v.scales.store(static_cast<std::int64_t>(band) * v.scale_cols + j, stored, code);
  store_codes(v.codes, r, c, words);
  store_mask(v.codes, r, c, z);
}

/// blocks.cu: the view of a job, all but the tensor's amax and scale.
BlocksView blocks_view(const Job& job);

}  // namespace nibble::quant_cuda
