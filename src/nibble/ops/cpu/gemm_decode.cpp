#include "nibble/ops/cpu/gemm_decode.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/fp8.h"
#include "nibble/ops/cpu/row_convert.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/simd.h"
#include "nibble/tensor/transpose_block.h"

namespace nibble::cpu {
namespace {

/// Elements decoded to F32 at a time on the way to BF16: 2 KiB, which stays in L1.
constexpr std::int64_t kChunk = 512;

inline std::int8_t with_sign(std::uint8_t code, int magnitude) {
  return static_cast<std::int8_t>((code & 8) != 0 ? -magnitude : magnitude);
}

// The integers of the codes in byte arithmetic, which vectorises.

/// The magnitudes 0 1 2 3 4 6 8 12 are m, plus 1 a step above 4, plus 2 more at 7.
struct E2M1Integer {
  static std::int8_t of(std::uint8_t code) {
    const auto m = static_cast<std::uint8_t>(code & 7);
    const auto above = static_cast<std::uint8_t>(m > 4 ? m - 4 : 0);
    return with_sign(code, static_cast<std::int8_t>(m + above + (m == 7 ? 2 : 0)));
  }
};

struct Int4Integer {
  static std::int8_t of(std::uint8_t code) { return with_sign(code, code & 7); }
};

/// The magnitudes 0 1 2 4 8 16 32 64: doubled at every step above 1.
struct E3M0Integer {
  static std::int8_t of(std::uint8_t code) {
    const auto m = static_cast<std::uint8_t>(code & 7);
    auto x = static_cast<std::uint8_t>(m > 0 ? 1 : 0);
    for (std::uint8_t step = 2; step < 8; ++step) x = static_cast<std::uint8_t>(x + (m >= step ? x : 0));
    return with_sign(code, x);
  }
};

template <class Integer>
[[gnu::always_inline]] inline void integers(const std::uint8_t* codes, std::int8_t* out, std::int64_t n) {
  for (std::int64_t j = 0; j < n / 2; ++j) {
    out[2 * j] = Integer::of(codes[j] & 15);
    out[2 * j + 1] = Integer::of(codes[j] >> 4);
  }
  if (n % 2 != 0) out[n - 1] = Integer::of(codes[n / 2] & 15);
}

NIBBLE_SIMD void e2m1_integer_row(const std::uint8_t* codes, std::int8_t* out, std::int64_t n) {
  integers<E2M1Integer>(codes, out, n);
}
NIBBLE_SIMD void int4_integer_row(const std::uint8_t* codes, std::int8_t* out, std::int64_t n) {
  integers<Int4Integer>(codes, out, n);
}
NIBBLE_SIMD void e3m0_integer_row(const std::uint8_t* codes, std::int8_t* out, std::int64_t n) {
  integers<E3M0Integer>(codes, out, n);
}

NIBBLE_SIMD void offset_row(std::uint8_t* x, int offset, std::int64_t n) {
  const auto add = static_cast<std::uint8_t>(offset);
  for (std::int64_t i = 0; i < n; ++i) x[i] = static_cast<std::uint8_t>(x[i] + add);
}

NIBBLE_SIMD void to_values_row(const std::int8_t* x, float unit, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = unit * static_cast<float>(x[i]);
}

NIBBLE_SIMD void e4m3_row(const std::uint8_t* codes, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = e4m3_decode(codes[i]);
}

NIBBLE_SIMD void e5m2_row(const std::uint8_t* codes, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = e5m2_decode(codes[i]);
}

NIBBLE_SIMD void e8m0_row(const std::uint8_t* codes, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = e8m0_decode(codes[i]);
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

float second_level_scale(const QTensor& q, std::int64_t r, std::int64_t c) {
  return q.outer_scales.data<float>()[r * q.outer_scales.cols() + c / q.outer];
}

/// The block scales [i, i + n) as stored.
void load_scales(const QTensor& q, std::int64_t i, std::int64_t n, float* out) {
  switch (q.scale_format) {
    case ScaleFormat::None: std::fill_n(out, n, 1.0f); return;
    case ScaleFormat::F32: load_row(q.scales.data<float>() + i, 1.0f, out, n); return;
    case ScaleFormat::E8M0: e8m0_row(q.scales.data<std::uint8_t>() + i, out, n); return;
    case ScaleFormat::UE4M3: e4m3_row(q.scales.data<std::uint8_t>() + i, out, n); return;
  }
}

/// The block scales of elements (r, [c, c + n)).
void expand_block_scales(const QTensor& q, std::int64_t r, std::int64_t c, std::int64_t n, float* out) {
  const std::int64_t width = q.block_cols();
  const std::int64_t row = r / q.block_rows() * q.scale_cols();
  if (width == 1) {
    load_scales(q, row + c, n, out);
    return;
  }
  std::int64_t block = c / width;
  std::int64_t end = std::min(n, (block + 1) * width - c);
  for (std::int64_t i = 0; i < n; ++block, end = std::min(n, end + width)) {
    const float s = block_scale(q, row + block);
    for (; i < end; ++i) out[i] = s;
  }
}

void decode_integers(const QTensor& q, std::int64_t r, std::int64_t c, std::int64_t n, std::int8_t* out) {
  const std::uint8_t* codes = q.codes.data<std::uint8_t>() + r * q.code_row_bytes() + c / 2;
  switch (q.element) {
    case ElementFormat::Int4: int4_integer_row(codes, out, n); return;
    case ElementFormat::E3M0: e3m0_integer_row(codes, out, n); return;
    default: e2m1_integer_row(codes, out, n); return;
  }
}

/// Values of elements (r, [c, c + n)) without scales, n <= kChunk.
void decode_values(const QTensor& q, std::int64_t r, std::int64_t c, std::int64_t n, float* out) {
  switch (q.element) {
    case ElementFormat::F32: load_row(q.codes.data<float>() + r * q.cols + c, 1.0f, out, n); return;
    case ElementFormat::BF16: load_row(q.codes.data<bf16>() + r * q.cols + c, 1.0f, out, n); return;
    case ElementFormat::E4M3: e4m3_row(q.codes.data<std::uint8_t>() + r * q.cols + c, out, n); return;
    case ElementFormat::E5M2: e5m2_row(q.codes.data<std::uint8_t>() + r * q.cols + c, out, n); return;
    case ElementFormat::E2M1:
    case ElementFormat::Int4:
    case ElementFormat::E3M0: {
      std::int8_t codes[kChunk];
      decode_integers(q, r, c, n, codes);
      to_values_row(codes, integer_codes(q.element).unit, out, n);
      return;
    }
  }
}

void decode_row(const GemmOperand& x, std::int64_t r, std::int64_t c, std::int64_t n, std::int8_t* out) {
  decode_integers(x.matrix, r, c, n, out);
}

void decode_row(const GemmOperand& x, std::int64_t r, std::int64_t c, std::int64_t n, std::uint8_t* out) {
  decode_row(x, r, c, n, reinterpret_cast<std::int8_t*>(out));
  offset_row(out, integer_codes(x.matrix.element).largest, n);
}

void decode_row(const GemmOperand& x, std::int64_t r, std::int64_t c, std::int64_t n, float* out) {
  const bool scaled = has_inner_scales(x);
  float scales[kChunk];
  for (std::int64_t i = 0; i < n; i += kChunk) {
    const std::int64_t count = std::min(kChunk, n - i);
    decode_values(x.matrix, r, c + i, count, out + i);
    if (!scaled) continue;
    expand_scales(x, r, c + i, count, scales);
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

IntegerCodes integer_codes(ElementFormat element) {
  switch (element) {
    case ElementFormat::Int4: return {1.0f, 7};
    case ElementFormat::E3M0: return {0.25f, 64};
    default: return {0.5f, 12};
  }
}

std::int64_t inner_block(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  const std::int64_t first = !block_scales_are_inner(x) ? 0 : x.transposed ? q.block_rows() : q.block_cols();
  const std::int64_t second = !second_level_is_inner(x) ? 0 : x.transposed ? 1 : q.outer;
  return std::gcd(first, second);
}

bool exact_in_bf16(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  if (q.element == ElementFormat::F32) return false;
  if (second_level_is_inner(x) && !all_powers_of_two(q.outer_scales.data<float>(), q.outer_scales.numel())) {
    return false;
  }
  if (!block_scales_are_inner(x)) return true;
  switch (q.scale_format) {
    case ScaleFormat::None:
    case ScaleFormat::E8M0: return true;
    case ScaleFormat::UE4M3: return is_four_bit(q.element);
    case ScaleFormat::F32: return all_powers_of_two(q.scales.data<float>(), q.scales.numel());
  }
  return false;
}

void fill_outer_scales(const GemmOperand& x, float* scales) {
  const QTensor& q = x.matrix;
  const std::int64_t n = outer_extent(x);
  const bool blocks = uses_scales(x) && q.scale_format != ScaleFormat::None && !block_scales_are_inner(x);
  const bool second_level = uses_scales(x) && q.outer_scales.defined() && !second_level_is_inner(x);
  const std::int64_t block = x.transposed ? q.block_cols() : q.block_rows();
  for (std::int64_t i = 0; i < n; ++i) {
    float scale = blocks ? block_scale(q, i / block) : 1.0f;
    if (second_level) scale = scale * (x.transposed ? second_level_scale(q, 0, i) : second_level_scale(q, i, 0));
    scales[i] = uses_scales(x) ? scale * q.tensor_scale : 1.0f;
  }
}

void expand_scales(const GemmOperand& x, std::int64_t r, std::int64_t c, std::int64_t n, float* out) {
  if (block_scales_are_inner(x)) {
    expand_block_scales(x.matrix, r, c, n, out);
  } else {
    std::fill_n(out, n, 1.0f);
  }
  if (!second_level_is_inner(x)) return;
  for (std::int64_t i = 0; i < n; ++i) out[i] = out[i] * second_level_scale(x.matrix, r, c + i);
}

void fill_block_scales(const GemmOperand& x, std::int64_t begin, std::int64_t end, std::int64_t length, float* out,
                       std::int64_t stride) {
  const QTensor& q = x.matrix;
  const std::int64_t blocks = (inner_extent(x) + length - 1) / length;
  if (x.transposed) {
    float row[kChunk];
    for (std::int64_t b = 0; b < blocks; ++b) {
      for (std::int64_t i = begin; i < end; i += kChunk) {
        const std::int64_t n = std::min(kChunk, end - i);
        expand_scales(x, b * length, i, n, row);
        for (std::int64_t j = 0; j < n; ++j) out[(i - begin + j) * stride + b] = row[j];
      }
    }
    return;
  }
  const bool inner = block_scales_are_inner(x);
  const std::int64_t width = q.block_cols();
  for (std::int64_t r = begin; r < end; ++r, out += stride) {
    const std::int64_t row = r / q.block_rows() * q.scale_cols();
    if (inner && width == length) {
      load_scales(q, row, blocks, out);
    } else {
      for (std::int64_t b = 0; b < blocks; ++b) out[b] = inner ? block_scale(q, row + b * length / width) : 1.0f;
    }
    if (!second_level_is_inner(x)) continue;
    for (std::int64_t b = 0; b < blocks; ++b) out[b] = out[b] * second_level_scale(q, r, b * length);
  }
}

template <class T>
void decode_stored(const GemmOperand& x, std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1, T* out,
                   std::int64_t stride) {
  const std::int64_t n = c1 - c0;
  for (std::int64_t r = r0; r < r1; ++r, out += stride) {
    prefetch_piece(x.matrix, r + kPrefetchRows, c0, n);
    decode_row(x, r, c0, n, out);
  }
}

template <class T>
void decode_outer(const GemmOperand& x, std::int64_t begin, std::int64_t end, T* out, std::int64_t stride, T* scratch) {
  const std::int64_t k = inner_extent(x);
  if (!x.transposed) {
    for (std::int64_t r = begin; r < end; ++r) decode_row(x, r, 0, k, out + (r - begin) * stride);
    return;
  }
  const std::int64_t width = end - begin;
  const std::int64_t step = decode_scratch(1);
  for (std::int64_t kk = 0; kk < k; kk += step) {
    const std::int64_t count = std::min(step, k - kk);
    decode_stored(x, kk, kk + count, begin, end, scratch, width);
    transpose_block(scratch, width, out + kk, stride, count, width);
  }
}

template void decode_stored(const GemmOperand&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int8_t*,
                            std::int64_t);
template void decode_stored(const GemmOperand&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bf16*,
                            std::int64_t);
template void decode_stored(const GemmOperand&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, float*,
                            std::int64_t);
template void decode_outer(const GemmOperand&, std::int64_t, std::int64_t, std::int8_t*, std::int64_t, std::int8_t*);
template void decode_outer(const GemmOperand&, std::int64_t, std::int64_t, std::uint8_t*, std::int64_t, std::uint8_t*);
template void decode_outer(const GemmOperand&, std::int64_t, std::int64_t, bf16*, std::int64_t, bf16*);
template void decode_outer(const GemmOperand&, std::int64_t, std::int64_t, float*, std::int64_t, float*);

}  // namespace nibble::cpu
