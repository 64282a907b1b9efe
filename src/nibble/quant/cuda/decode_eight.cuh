// Eight neighbouring values of a row of a QTensor at once, and the residual beside them.
#pragma once

#include "nibble/quant/cuda/decode.cuh"
#include "nibble/tensor/cuda/pack.cuh"

namespace nibble::quant_cuda {

/// How the columns of a QTensor can be read.
enum class Columns : std::uint8_t {
  Blocks,  ///< eight at a time under one scale: blocks and outer stretches end only between eights
  Packs,   ///< eight at a time, each under its own
  Single,  ///< one at a time: rows that are not aligned
};

inline Columns columns_of(const QTensor& q) {
  const auto between_eights = [&](std::int64_t span) { return span % 8 == 0 || span >= q.cols; };
  if (q.cols % 8 != 0 || !cuda::packs_fit(static_cast<const std::uint8_t*>(q.codes.raw()))) return Columns::Single;
  const bool blocks = between_eights(q.block_cols()) && (!q.outer_scales.defined() || between_eights(q.outer));
  return blocks ? Columns::Blocks : Columns::Packs;
}

/// What a clamp cut off, as a kernel takes it.
struct ResidualView {
  const std::int32_t* row_begin = nullptr;  ///< null: nothing is kept
  const std::int32_t* col = nullptr;
  const float* value = nullptr;

  ResidualView() = default;
  explicit ResidualView(const CsrMatrix& residual) {
    if (!residual.defined()) return;
    row_begin = residual.row_begin.data<std::int32_t>();
    col = residual.col.data<std::int32_t>();
    value = residual.value.data<float>();
  }
};

/// Eight elements without their scales; c is a multiple of eight, codes are aligned.
__device__ __forceinline__ void decode_elements(const DecodeView& q, std::uint32_t r, std::uint32_t c, float (&v)[8]) {
  const auto* row = static_cast<const std::uint8_t*>(q.codes) + static_cast<std::int64_t>(r) * q.row_bytes;
  switch (q.element) {
    case ElementFormat::F32: {
      const cuda::Pack<float, 8> pack = cuda::load_pack<8>(reinterpret_cast<const float*>(row) + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = pack.v[i];
      break;
    }
    case ElementFormat::BF16: {
      const cuda::Pack<bf16, 8> pack = cuda::load_pack<8>(reinterpret_cast<const bf16*>(row) + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = bf16_decode(pack.v[i]);
      break;
    }
    case ElementFormat::E4M3: {
      const cuda::Pack<std::uint8_t, 8> pack = cuda::load_pack<8>(row + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = e4m3_decode(pack.v[i]);
      break;
    }
    case ElementFormat::E5M2: {
      const cuda::Pack<std::uint8_t, 8> pack = cuda::load_pack<8>(row + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = e5m2_decode(pack.v[i]);
      break;
    }
    default: {
      const std::uint32_t codes = *reinterpret_cast<const std::uint32_t*>(row + c / 2);  // element 0 lowest
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = decode_four_bit(q.element, codes >> (4 * i));
    }
  }
}

/// Values [c, c + 8) of row r without the residual, multiplied in the CPU's order, 0 beyond the end of the row; c is a
/// multiple of eight, `all` is q.factor().
template <Columns kColumns>
__device__ __forceinline__ void decode_eight(const DecodeView& q, std::uint32_t r, std::uint32_t c, float all,
                                             float (&v)[8]) {
  if constexpr (kColumns == Columns::Single) {
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) v[i] = c + i < q.cols ? q.value(r, c + i, all) : 0.0f;
    return;
  }
  decode_elements(q, r, c, v);
  if (q.scale_format == ScaleFormat::None) return;
  if constexpr (kColumns == Columns::Blocks) {
    const float scale = q.stored_scale(q.scale_index(r, c));
    const float outer = q.outer_scales == nullptr ? 1.0f : q.outer_scale(r, c);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = v[i] * scale * outer * all;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      v[i] *= q.stored_scale(q.scale_index(r, c + i));
      if (q.outer_scales != nullptr) v[i] *= q.outer_scale(r, c + i);
      v[i] *= all;
    }
  }
}

}  // namespace nibble::quant_cuda
