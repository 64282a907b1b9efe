#include "nibble/ops/cpu/gemm_decode.h"

#include <algorithm>
#include <cstring>

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/fp8.h"
#include "nibble/ops/cpu/row_convert.h"
#include "nibble/ops/cpu/transpose_block.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

/// Elements decoded to F32 at a time on the way to BF16: 2 KiB, which stays in L1.
constexpr std::int64_t kChunk = 512;

/// e2m1_twice in byte arithmetic, which vectorises: the magnitudes 0 1 2 3 4 6 8 12 are m, plus 1 a step above 4,
/// plus 2 more at 7.
inline std::int8_t twice(std::uint8_t code) {
  const auto m = static_cast<std::uint8_t>(code & 7);
  const auto above = static_cast<std::uint8_t>(m > 4 ? m - 4 : 0);
  const auto magnitude = static_cast<std::int8_t>(m + above + (m == 7 ? 2 : 0));
  return static_cast<std::int8_t>((code & 8) != 0 ? -magnitude : magnitude);
}

NIBBLE_SIMD void twice_row(const std::uint8_t* codes, std::int8_t* out, std::int64_t n) {
  for (std::int64_t j = 0; j < n / 2; ++j) {
    out[2 * j] = twice(codes[j] & 15);
    out[2 * j + 1] = twice(codes[j] >> 4);
  }
  if (n % 2 != 0) out[n - 1] = twice(codes[n / 2] & 15);
}

NIBBLE_SIMD void offset_row(std::uint8_t* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = static_cast<std::uint8_t>(x[i] + kUnsignedOffset);
}

NIBBLE_SIMD void halve_row(const std::int8_t* x, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = 0.5f * static_cast<float>(x[i]);
}

NIBBLE_SIMD void e4m3_row(const std::uint8_t* codes, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = e4m3_decode(codes[i]);
}

NIBBLE_SIMD void e5m2_row(const std::uint8_t* codes, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = e5m2_decode(codes[i]);
}

/// For values that are exact in BF16.
NIBBLE_SIMD void narrow_row(const float* x, bf16* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i].bits = static_cast<std::uint16_t>(float_bits(x[i]) >> 16);
}

NIBBLE_SIMD void multiply_row(float* x, const float* scale, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = x[i] * scale[i];
}

NIBBLE_SIMD bool all_powers_of_two(const float* x, std::int64_t n) {
  std::uint32_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t exponent = float_bits(x[i]) & 0x7F80'0000u;
    const bool zero_or_subnormal = exponent == 0;
    const bool infinite = exponent == 0x7F80'0000u;
    bad |= float_bits(x[i]) & 0x007F'FFFFu;
    bad |= static_cast<std::uint32_t>((zero_or_subnormal & (x[i] != 0.0f)) | infinite);
  }
  return bad == 0;
}

float block_scale(const QTensor& q, std::int64_t index) {
  switch (q.scale_format) {
    case ScaleFormat::None: break;
    case ScaleFormat::F32: return q.scales.data<float>()[index];
    case ScaleFormat::E8M0: return e8m0_decode(q.scales.data<std::uint8_t>()[index]);
    case ScaleFormat::UE4M3: return e4m3_decode(q.scales.data<std::uint8_t>()[index]);
  }
  return 1.0f;
}

bool uses_scales(const GemmOperand& x) { return has_scale(x.matrix.element) && !x.scales_folded; }

/// The block scales of elements (r, [c, c + n)).
void expand_scales(const QTensor& q, std::int64_t r, std::int64_t c, std::int64_t n, float* out) {
  const std::int64_t width = q.block_cols();
  const std::int64_t row = r / q.block_rows() * q.scale_cols();
  if (width == 1 && q.scale_format == ScaleFormat::F32) {
    load_row(q.scales.data<float>() + row + c, 1.0f, out, n);
    return;
  }
  std::int64_t block = c / width;
  std::int64_t end = std::min(n, (block + 1) * width - c);
  for (std::int64_t i = 0; i < n; ++block, end = std::min(n, end + width)) {
    const float s = block_scale(q, row + block);
    for (; i < end; ++i) out[i] = s;
  }
}

/// Values of elements (r, [c, c + n)) without scales, n <= kChunk.
void decode_values(const QTensor& q, std::int64_t r, std::int64_t c, std::int64_t n, float* out) {
  switch (q.element) {
    case ElementFormat::F32: load_row(q.codes.data<float>() + r * q.cols + c, 1.0f, out, n); return;
    case ElementFormat::BF16: load_row(q.codes.data<bf16>() + r * q.cols + c, 1.0f, out, n); return;
    case ElementFormat::E4M3: e4m3_row(q.codes.data<std::uint8_t>() + r * q.cols + c, out, n); return;
    case ElementFormat::E5M2: e5m2_row(q.codes.data<std::uint8_t>() + r * q.cols + c, out, n); return;
    case ElementFormat::E2M1: {
      std::int8_t codes[kChunk];
      twice_row(q.codes.data<std::uint8_t>() + r * ((q.cols + 1) / 2) + c / 2, codes, n);
      halve_row(codes, out, n);
      return;
    }
  }
}

void decode_row(const GemmOperand& x, std::int64_t r, std::int64_t c, std::int64_t n, std::int8_t* out) {
  const QTensor& q = x.matrix;
  twice_row(q.codes.data<std::uint8_t>() + r * ((q.cols + 1) / 2) + c / 2, out, n);
}

void decode_row(const GemmOperand& x, std::int64_t r, std::int64_t c, std::int64_t n, std::uint8_t* out) {
  decode_row(x, r, c, n, reinterpret_cast<std::int8_t*>(out));
  offset_row(out, n);
}

void decode_row(const GemmOperand& x, std::int64_t r, std::int64_t c, std::int64_t n, float* out) {
  const bool scaled = has_inner_scales(x);
  float scales[kChunk];
  for (std::int64_t i = 0; i < n; i += kChunk) {
    const std::int64_t count = std::min(kChunk, n - i);
    decode_values(x.matrix, r, c + i, count, out + i);
    if (!scaled) continue;
    expand_scales(x.matrix, r, c + i, count, scales);
    multiply_row(out + i, scales, count);
  }
}

void decode_row(const GemmOperand& x, std::int64_t r, std::int64_t c, std::int64_t n, bf16* out) {
  if (x.matrix.element == ElementFormat::BF16) {
    std::memcpy(out, x.matrix.codes.data<bf16>() + r * x.matrix.cols + c, static_cast<std::size_t>(n) * sizeof(bf16));
    return;
  }
  float values[kChunk];
  for (std::int64_t i = 0; i < n; i += kChunk) {
    const std::int64_t count = std::min(kChunk, n - i);
    decode_row(x, r, c + i, count, values);
    narrow_row(values, out + i, count);
  }
}

/// Rows ahead that are asked for: about the latency of the last-level cache over the time a short row takes.
constexpr std::int64_t kPrefetchRows = 16;

/// Asks for elements (r, [c, c + n)). A short piece of a long row (a transposed operand is read so) is not foreseen by
/// the hardware, which doubles the time of the pass; long ones are.
void prefetch_piece(const QTensor& q, std::int64_t r, std::int64_t c, std::int64_t n) {
  constexpr std::int64_t kShort = 1024;
  const std::int64_t bits = element_bits(q.element);
  const std::int64_t bytes = n * bits / 8;
  if (r >= q.rows || bytes > kShort || n == q.cols) return;
  const char* piece = static_cast<const char*>(q.codes.raw()) + r * q.code_row_bytes() + c * bits / 8;
  for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(piece + i);
}

}  // namespace

bool has_inner_scales(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  if (!uses_scales(x) || q.scale_format == ScaleFormat::None) return false;
  return x.transposed ? q.block_rows() < q.rows : q.block_cols() < q.cols;
}

bool exact_in_bf16(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  if (q.element == ElementFormat::F32) return false;
  if (!has_inner_scales(x)) return true;
  switch (q.scale_format) {
    case ScaleFormat::None:
    case ScaleFormat::E8M0: return true;
    case ScaleFormat::UE4M3: return q.element == ElementFormat::E2M1;
    case ScaleFormat::F32: return all_powers_of_two(q.scales.data<float>(), q.scales.numel());
  }
  return false;
}

void fill_outer_scales(const GemmOperand& x, float* scales) {
  const QTensor& q = x.matrix;
  const std::int64_t n = outer_extent(x);
  if (!uses_scales(x)) {
    std::fill_n(scales, n, 1.0f);
  } else if (q.scale_format == ScaleFormat::None || has_inner_scales(x)) {
    std::fill_n(scales, n, q.tensor_scale);
  } else {
    const std::int64_t block = x.transposed ? q.block_cols() : q.block_rows();
    for (std::int64_t i = 0; i < n; ++i) scales[i] = block_scale(q, i / block) * q.tensor_scale;
  }
}

template <class T>
void decode_stored(const GemmOperand& x, std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1, T* out) {
  const std::int64_t n = c1 - c0;
  for (std::int64_t r = r0; r < r1; ++r, out += n) {
    prefetch_piece(x.matrix, r + kPrefetchRows, c0, n);
    decode_row(x, r, c0, n, out);
  }
}

template <class T>
void decode_outer(const GemmOperand& x, std::int64_t begin, std::int64_t end, T* out, T* scratch) {
  const std::int64_t k = inner_extent(x);
  if (!x.transposed) {
    decode_stored(x, begin, end, 0, k, out);
    return;
  }
  const std::int64_t width = end - begin;
  const std::int64_t step = decode_scratch(1);
  for (std::int64_t kk = 0; kk < k; kk += step) {
    const std::int64_t count = std::min(step, k - kk);
    decode_stored(x, kk, kk + count, begin, end, scratch);
    transpose_block(scratch, width, out + kk, k, count, width);
  }
}

template void decode_stored(const GemmOperand&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int8_t*);
template void decode_stored(const GemmOperand&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bf16*);
template void decode_stored(const GemmOperand&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, float*);
template void decode_outer(const GemmOperand&, std::int64_t, std::int64_t, std::uint8_t*, std::uint8_t*);
template void decode_outer(const GemmOperand&, std::int64_t, std::int64_t, bf16*, bf16*);
template void decode_outer(const GemmOperand&, std::int64_t, std::int64_t, float*, float*);

}  // namespace nibble::cpu
