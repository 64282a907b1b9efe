// The matrix that a quantiser sees: y = x (rounded to BF16 on request) * row_fold[r] * col_fold[c], row by row.
#pragma once

#include "nibble/quant/quantize.h"

namespace nibble::quant_cpu {

class Source {
 public:
  Source(const Tensor& x, bool bf16_input, const QuantizeContext& context);

  std::int64_t rows() const { return x_.rows(); }
  std::int64_t cols() const { return x_.cols(); }
  /// Bytes that one row of x takes.
  std::int64_t row_bytes() const { return cols() * static_cast<std::int64_t>(dtype_size(x_.dtype())); }

  /// Row r as F32: x itself where nothing is to be computed, else `buffer` [cols], filled.
  const float* row(std::int64_t r, float* buffer) const;

  /// Whether the rows are BF16 values as they stand in memory; and then those rows.
  bool is_plain_bf16() const { return x_.dtype() == DType::BF16 && !folded(); }
  const std::uint16_t* bf16_row(std::int64_t r) const;

  bool folded() const { return row_fold_ != nullptr || col_fold_ != nullptr; }
  const Tensor& x() const { return x_; }

 private:
  Tensor x_;
  bool round_to_bf16_;
  const float* row_fold_ = nullptr;
  const float* col_fold_ = nullptr;
};

}  // namespace nibble::quant_cpu
