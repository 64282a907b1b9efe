// Rows of a QTensor back to floats.
#pragma once

#include <memory>

#include "nibble/quant/qtensor.h"

namespace nibble::quant_cpu {

/// out[i] = value of the code, unscaled.
void decode_e2m1(const std::uint8_t* packed, std::int64_t n, float* out);
void decode_e4m3(const std::uint8_t* codes, std::int64_t n, float* out);
void decode_e5m2(const std::uint8_t* codes, std::int64_t n, float* out);

/// Decodes rows of one QTensor, with the buffers for it. Not for two threads at once.
class RowDecoder {
 public:
  explicit RowDecoder(const QTensor& q);
  /// out[0, cols) = values of row r, without the residual.
  void operator()(std::int64_t r, float* out);

 private:
  void set_scales(std::int64_t band);
  void multiply_outer(std::int64_t r, float* out) const;

  const QTensor& q_;
  std::int64_t band_ = -1;
  std::unique_ptr<float[]> block_scales_;
  std::unique_ptr<float[]> column_scales_;
};

/// scales[j] of row of blocks `band`, the outer scale multiplied in, without the tensor scale.
void decode_scales(const QTensor& q, std::int64_t band, float* scales);

/// row[c] += residual(r, c).
void add_residual(const CsrMatrix& residual, std::int64_t r, float* row);

}  // namespace nibble::quant_cpu
