// Operands for the tests of matrix products, filled code by code, their values in double, and the naive product.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/e3m0.h"
#include "nibble/numerics/fp8.h"
#include "nibble/numerics/int4.h"
#include "nibble/ops/gemm.h"

namespace nibble::testing {

struct OperandSpec {
  ElementFormat element = ElementFormat::E2M1;
  Granularity granularity = Granularity::per_row();
  ScaleFormat scale_format = ScaleFormat::F32;
  float tensor_scale = 1.0f;
  std::int64_t outer = 0;      ///< columns under an F32 scale of the second level, 0 = none
  bool powers_of_two = false;  ///< of F32 scales
  bool integers = false;       ///< F32 and BF16 elements in [-8, 8], so that sums are exact
};

/// An operand together with its memory.
struct Operand {
  OwnedTensor codes;
  OwnedTensor scales;
  OwnedTensor outer_scales;
  QTensor q;
};

inline void set_code(const Operand& x, std::int64_t r, std::int64_t c, std::uint8_t code) {
  std::uint8_t& byte = x.q.codes.data<std::uint8_t>()[r * x.q.code_row_bytes() + c / 2];
  byte = static_cast<std::uint8_t>(c % 2 == 0 ? (byte & 0xF0) | code : (byte & 0x0F) | (code << 4));
}

inline std::uint8_t random_code(ElementFormat element, std::mt19937& random) {
  for (;;) {
    const auto code = static_cast<std::uint8_t>(random() & 0xFF);
    if (element == ElementFormat::E4M3 && float_is_nan(e4m3_decode(code))) continue;
    if (element == ElementFormat::E5M2 && !float_is_finite(e5m2_decode(code))) continue;
    return code;
  }
}

inline Operand make_operand(const OperandSpec& spec, std::int64_t rows, std::int64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  Operand x;
  QTensor& q = x.q;
  q.element = spec.element;
  q.rows = rows;
  q.cols = cols;
  if (!has_scale(spec.element)) {
    const DType dtype = spec.element == ElementFormat::F32 ? DType::F32 : DType::BF16;
    x.codes = OwnedTensor(dtype, {rows, cols});
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> integer(-8, 8);
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      const float value = spec.integers ? static_cast<float>(integer(random)) : normal(random);
      if (dtype == DType::F32) x.codes.view().data<float>()[i] = value;
      if (dtype == DType::BF16) x.codes.view().data<bf16>()[i] = bf16_encode(value);
    }
    q = QTensor::view(x.codes);
    q.rows = rows;
    q.cols = cols;
    return x;
  }
  q.granularity = spec.granularity;
  q.scale_format = spec.scale_format;
  q.tensor_scale = spec.tensor_scale;
  x.codes = OwnedTensor(DType::U8, {rows, q.code_row_bytes()});
  q.codes = x.codes;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const std::uint8_t code = random_code(spec.element, random);
      if (is_four_bit(spec.element)) {
        set_code(x, r, c, code & 15);
      } else {
        q.codes.data<std::uint8_t>()[r * cols + c] = code;
      }
    }
  }
  if (rows * cols == 0) return x;
  std::uniform_real_distribution<float> factor(0.5f, 2.0f);
  if (spec.outer != 0) {
    q.outer = spec.outer;
    x.outer_scales = OwnedTensor(DType::F32, {rows, (cols + spec.outer - 1) / spec.outer});
    q.outer_scales = x.outer_scales;
    for (std::int64_t i = 0; i < q.outer_scales.numel(); ++i) q.outer_scales.data<float>()[i] = factor(random);
  }
  if (spec.scale_format == ScaleFormat::None) return x;
  x.scales =
      OwnedTensor(spec.scale_format == ScaleFormat::F32 ? DType::F32 : DType::U8, {q.scale_rows(), q.scale_cols()});
  q.scales = x.scales;
  for (std::int64_t i = 0; i < q.scales.numel(); ++i) {
    switch (spec.scale_format) {
      case ScaleFormat::None: break;
      case ScaleFormat::F32:
        q.scales.data<float>()[i] = spec.powers_of_two ? exp2_int(static_cast<int>(random() % 9) - 4) : factor(random);
        break;
      case ScaleFormat::E8M0: q.scales.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(123 + random() % 9); break;
      case ScaleFormat::UE4M3:
        q.scales.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(0x28 + random() % 0x20);
        break;
    }
  }
  return x;
}

/// The scale of the second level at (r, c).
inline float outer_scale(const QTensor& q, std::int64_t r, std::int64_t c) {
  return q.outer == 0 ? 1.0f : q.outer_scales.data<float>()[r * ((q.cols + q.outer - 1) / q.outer) + c / q.outer];
}

/// The scale of the block of (r, c) as stored.
inline float block_scale(const QTensor& q, std::int64_t r, std::int64_t c) {
  if (q.scale_format == ScaleFormat::None) return 1.0f;
  const std::int64_t rows = q.granularity.rows == 0 ? q.rows : q.granularity.rows;
  const std::int64_t cols = q.granularity.cols == 0 ? q.cols : q.granularity.cols;
  const std::int64_t i = r / rows * ((q.cols + cols - 1) / cols) + c / cols;
  if (q.scale_format == ScaleFormat::F32) return q.scales.data<float>()[i];
  const std::uint8_t code = q.scales.data<std::uint8_t>()[i];
  return q.scale_format == ScaleFormat::E8M0 ? e8m0_decode(code) : e4m3_decode(code);
}

/// The value of a code, or of a BF16 or F32 element.
inline double element_value(const QTensor& q, std::int64_t r, std::int64_t c) {
  switch (q.element) {
    case ElementFormat::F32: return q.codes.data<float>()[r * q.cols + c];
    case ElementFormat::BF16: return bf16_decode(q.codes.data<bf16>()[r * q.cols + c]);
    case ElementFormat::E4M3: return e4m3_decode(q.codes.data<std::uint8_t>()[r * q.cols + c]);
    case ElementFormat::E5M2: return e5m2_decode(q.codes.data<std::uint8_t>()[r * q.cols + c]);
    default: break;
  }
  const std::uint8_t byte = q.codes.data<std::uint8_t>()[r * ((q.cols + 1) / 2) + c / 2];
  const auto code = static_cast<std::uint8_t>(c % 2 == 0 ? byte & 15 : byte >> 4);
  switch (q.element) {
    case ElementFormat::Int4: return int4_decode(code);
    case ElementFormat::E3M0: return e3m0_decode(code);
    default: return e2m1_decode(code);
  }
}

/// The value as it enters a product, scales and all, in double.
inline double value(const QTensor& q, std::int64_t r, std::int64_t c, bool scales_folded = false) {
  if (!has_scale(q.element) || scales_folded) return element_value(q, r, c);
  return element_value(q, r, c) * static_cast<double>(block_scale(q, r, c)) *
         static_cast<double>(outer_scale(q, r, c)) * static_cast<double>(q.tensor_scale);
}

struct Extent {
  std::int64_t m, n, k;
};

/// The three storage orders of a linear layer's products, and the fourth.
struct Order {
  bool a_transposed, b_transposed;
};
inline constexpr Order kOrders[] = {{false, false}, {false, true}, {true, true}, {true, false}};

inline Operand stored(const OperandSpec& spec, std::int64_t outer, std::int64_t k, bool transposed, unsigned seed) {
  return transposed ? make_operand(spec, k, outer, seed) : make_operand(spec, outer, k, seed);
}

/// Elements of an operand as [outer, k] doubles, as they enter the product.
inline std::vector<double> dense(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  const std::int64_t outer = x.transposed ? q.cols : q.rows;
  const std::int64_t k = x.transposed ? q.rows : q.cols;
  std::vector<double> v(static_cast<std::size_t>(outer * k));
  for (std::int64_t i = 0; i < outer; ++i) {
    for (std::int64_t j = 0; j < k; ++j) {
      v[static_cast<std::size_t>(i * k + j)] =
          x.transposed ? value(q, j, i, x.scales_folded) : value(q, i, j, x.scales_folded);
    }
  }
  return v;
}

/// sum_k a b and sum_k |a b|, [m, n].
struct Oracle {
  std::vector<double> sum, magnitude;
};

inline Oracle naive(const GemmOperand& a, const GemmOperand& b, const Extent& s) {
  const std::vector<double> x = dense(a);
  const std::vector<double> y = dense(b);
  Oracle o{std::vector<double>(static_cast<std::size_t>(s.m * s.n)),
           std::vector<double>(static_cast<std::size_t>(s.m * s.n))};
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) {
      double sum = 0;
      double magnitude = 0;
      for (std::int64_t k = 0; k < s.k; ++k) {
        const double p = x[static_cast<std::size_t>(m * s.k + k)] * y[static_cast<std::size_t>(n * s.k + k)];
        sum += p;
        magnitude += std::fabs(p);
      }
      o.sum[static_cast<std::size_t>(m * s.n + n)] = sum;
      o.magnitude[static_cast<std::size_t>(m * s.n + n)] = magnitude;
    }
  }
  return o;
}

/// C [m, n] with one value everywhere.
inline OwnedTensor filled(DType dtype, const Extent& s, float value) {
  OwnedTensor c(DType::F32, {s.m, s.n});
  std::fill_n(c.view().data<float>(), s.m * s.n, value);
  OwnedTensor out(dtype, {s.m, s.n});
  convert(c, out);
  return out;
}

inline std::vector<float> product(const GemmOperand& a, const GemmOperand& b, const Extent& s) {
  Arena arena;
  std::vector<float> c(static_cast<std::size_t>(s.m * s.n), NAN);
  gemm(a, b, Tensor::of(c.data(), {s.m, s.n}), Accumulate::Overwrite, arena);
  return c;
}

}  // namespace nibble::testing
