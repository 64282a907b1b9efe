// Where the codes and the trust mask of eight elements go.
#pragma once

#include "nibble/quant/cuda/decode.cuh"
#include "nibble/quant/cuda/job.h"
#include "nibble/quant/cuda/scales.cuh"
#include "nibble/quant/qtensor.h"

namespace nibble::quant_cuda {

/// The element part of a QTensor that is being written, as a kernel takes it.
struct CodesView {
  ElementFormat element = ElementFormat::BF16;  ///< as it is encoded
  Form form = Form::Packed;
  std::uint8_t* codes = nullptr;
  std::int64_t row_bytes = 0;
  std::uint32_t cols = 0;
  bool whole = false;  ///< rows are whole sixteens, so every row begins at a multiple of its sixteen elements' bytes
  std::uint8_t* mask = nullptr;
  std::int64_t mask_bytes = 0;  ///< of a row

  CodesView() = default;
  explicit CodesView(const QTensor& q, Form stored_as = Form::Packed)
      : element(stored_as == Form::Packed ? q.element : ElementFormat::E2M1),
        form(stored_as),
        codes(static_cast<std::uint8_t*>(q.codes.raw())),
        row_bytes(q.code_row_bytes()),
        cols(static_cast<std::uint32_t>(q.cols)),
        whole(q.cols % 16 == 0) {
    if (!q.mask.defined()) return;
    mask = q.mask.data<std::uint8_t>();
    mask_bytes = q.mask.cols();
  }
};

/// Codes of the elements [c, c + 8) of row r, c a multiple of 8: words[0] for four bits, both for eight. What lies
/// beyond the end of the row is dropped.
__device__ __forceinline__ void store_codes(const CodesView& view, std::uint32_t r, std::uint32_t c,
                                            const std::uint32_t (&words)[2]) {
  std::uint8_t* row = view.codes + static_cast<std::int64_t>(r) * view.row_bytes;
  const bool whole = view.whole || view.cols % 8 == 0;
  if (view.element == ElementFormat::E4M3 || view.element == ElementFormat::E5M2) {
    if (whole) {
      *reinterpret_cast<uint2*>(row + c) = make_uint2(words[0], words[1]);
      return;
    }
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) {
      if (c + i < view.cols) row[c + i] = static_cast<std::uint8_t>(words[i / 4] >> (8 * (i % 4)));
    }
    return;
  }
  if (whole) {
    *reinterpret_cast<std::uint32_t*>(row + c / 2) = words[0];
    return;
  }
#pragma unroll
  for (std::uint32_t i = 0; i < 4; ++i) {
    const std::uint32_t last = c + 2 * i + 1 < view.cols ? 0xFFu : 0x0Fu;
    if (c + 2 * i < view.cols) row[c / 2 + i] = static_cast<std::uint8_t>(words[0] >> (8 * i) & last);
  }
}

/// Elements that are the values themselves.
__device__ __forceinline__ void store_values(const CodesView& view, std::uint32_t r, std::uint32_t c,
                                             const float (&y)[8]) {
  const bool whole = view.whole || view.cols % 8 == 0;
  if (view.element == ElementFormat::BF16) {
    bf16* row = reinterpret_cast<bf16*>(view.codes + static_cast<std::int64_t>(r) * view.row_bytes);
    std::uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      pairs[i] = bf16_encode(y[2 * i]).bits | static_cast<std::uint32_t>(bf16_encode(y[2 * i + 1]).bits) << 16;
    }
    if (whole) {
      *reinterpret_cast<uint4*>(row + c) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      return;
    }
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) {
      if (c + i < view.cols) row[c + i] = bf16{static_cast<std::uint16_t>(pairs[i / 2] >> (16 * (i % 2)))};
    }
    return;
  }
  float* row = reinterpret_cast<float*>(view.codes + static_cast<std::int64_t>(r) * view.row_bytes);
  if (whole) {
    *reinterpret_cast<float4*>(row + c) = make_float4(y[0], y[1], y[2], y[3]);
    *reinterpret_cast<float4*>(row + c + 4) = make_float4(y[4], y[5], y[6], y[7]);
    return;
  }
#pragma unroll
  for (std::uint32_t i = 0; i < 8; ++i) {
    if (c + i < view.cols) row[c + i] = y[i];
  }
}

/// The trust mask of eight elements, |z| < 6; bits beyond the end of the row are 0.
__device__ __forceinline__ void store_mask(const CodesView& view, std::uint32_t r, std::uint32_t c,
                                           const float (&z)[8]) {
  if (view.mask == nullptr) return;
  std::uint32_t bits = 0;
#pragma unroll
  for (std::uint32_t i = 0; i < 8; ++i) {
    bits |= (fabsf(z[i]) < kE2M1Max && (view.whole || c + i < view.cols) ? 1u : 0u) << i;
  }
  view.mask[static_cast<std::int64_t>(r) * view.mask_bytes + c / 8] = static_cast<std::uint8_t>(bits);
}

/// Eight elements of a scaled format from y and their factors: codes and mask. Not in BF16's form.
__device__ __forceinline__ void encode_eight(const EncodeView& encode, const CodesView& codes, std::uint32_t r,
                                             std::uint32_t c, const float (&y)[8], const float (&m)[8],
                                             bool all_finite = false) {
  float z[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) z[i] = y[i] * m[i];
  std::uint32_t words[2] = {0, 0};
  if (codes.element == ElementFormat::E4M3 || codes.element == ElementFormat::E5M2) {
    encode_fp8(codes.element, z, y, all_finite, words);
  } else {
    words[0] = encode_four_bit(encode, r, c, z, m, all_finite);
  }
  if (codes.form == Form::E4M3) {
    *reinterpret_cast<uint2*>(codes.codes + static_cast<std::int64_t>(r) * codes.row_bytes + c) =
        make_uint2(e2m1_to_e4m3(words[0]), e2m1_to_e4m3(words[0] >> 16));
  } else {
    store_codes(codes, r, c, words);
  }
  store_mask(codes, r, c, z);
}

/// The scales of a QTensor that is being written.
struct ScalesView {
  float* f32 = nullptr;  ///< one of the two
  std::uint8_t* bytes = nullptr;
  __device__ __forceinline__ void store(std::int64_t index, float stored, std::uint8_t code) const {
    if (f32 != nullptr) {
      f32[index] = stored;
    } else {
      bytes[index] = code;
    }
  }

  ScalesView() = default;
  explicit ScalesView(const Tensor& scales) {
    if (scales.dtype() == DType::F32) {
      f32 = scales.data<float>();
    } else {
      bytes = scales.data<std::uint8_t>();
    }
  }
};

}  // namespace nibble::quant_cuda
