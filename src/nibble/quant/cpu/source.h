// The matrix that a quantiser sees, row by row: y = x (rounded to BF16 on request) * row_fold[r] * col_fold[c],
// transposed on request, its rows then under a Hadamard transform.
#pragma once

#include <memory>
#include <optional>

#include "nibble/quant/cpu/hadamard.h"
#include "nibble/quant/quantize.h"

namespace nibble::quant_cpu {

class Source {
 public:
  Source(const Tensor& x, bool bf16_input, const QuantizeContext& context, bool transposed = false,
         const Hadamard& hadamard = {});

  /// Of y.
  std::int64_t rows() const { return transposed_ ? x_.cols() : x_.rows(); }
  std::int64_t cols() const { return transposed_ ? x_.rows() : x_.cols(); }
  /// Bytes of x that one row of y comes from.
  std::int64_t row_bytes() const { return cols() * static_cast<std::int64_t>(dtype_size(x_.dtype())); }
  /// Rows that are read together: a pass whose chunks are whole groups reads x once.
  std::int64_t row_group() const;

  /// Whether the entries of y are those of x as they stand in memory.
  bool is_plain() const { return !folded() && !round_to_bf16_ && !hadamard_.has_value(); }
  bool is_plain_bf16() const { return x_.dtype() == DType::BF16 && is_plain(); }
  bool transposed() const { return transposed_; }
  bool folded() const { return row_fold_ != nullptr || col_fold_ != nullptr; }
  const Tensor& x() const { return x_; }

  /// Row r as F32: x itself where nothing is to be computed, else `buffer` [cols], filled. Not where y is transposed.
  const float* row(std::int64_t r, float* buffer) const;

 private:
  friend class RowReader;
  template <class T>
  const float* finish(const T* raw, std::int64_t r, float* buffer) const;

  Tensor x_;
  bool round_to_bf16_;
  bool transposed_;
  const float* row_fold_ = nullptr;
  const float* col_fold_ = nullptr;
  std::optional<HadamardRow> hadamard_;
};

/// Reads rows of one source, transposed ones group by group. Not for two threads at once.
class RowReader {
 public:
  explicit RowReader(const Source& source);

  /// Row r as F32: x itself where nothing is to be computed, else `buffer` [cols], filled.
  const float* operator()(std::int64_t r, float* buffer);
  /// Row r of a source that is plain BF16, until the next call.
  const std::uint16_t* bf16(std::int64_t r);

 private:
  template <class T>
  const T* raw(std::int64_t r);

  const Source& source_;
  std::int64_t stride_ = 0;
  std::int64_t group_ = -1;  ///< the group of rows that `band_` holds
  std::unique_ptr<std::byte[]> band_;
};

}  // namespace nibble::quant_cpu
