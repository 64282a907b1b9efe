// QTensor: a matrix [rows, cols] as stored for a product: element codes, scales, and what the clamp cut off.
//
//   value(r, c) = decode(code(r, c)) * scale(r / block_rows, c / block_cols) * outer_scale(r, c / outer) * tensor_scale
//                 (+ residual(r, c))
//
// Codes by element format, row-major:
//   E2M1, Int4, E3M0
//               U8 [rows, ceil(cols / 2)]: element 2j in the LOW nibble of byte j, 2j+1 in the HIGH nibble;
//               an odd last nibble is 0
//   E4M3, E5M2  U8 [rows, cols]
//   BF16, F32   the values themselves [rows, cols]; no scales
// Scales: [ceil(rows / block_rows), ceil(cols / block_cols)], row-major, as F32, or U8 for E8M0 and UE4M3.
#pragma once

#include "nibble/quant/quant_spec.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// Compressed sparse rows: the entries of row r are [row_begin[r], row_begin[r+1]), columns ascending.
struct CsrMatrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  Tensor row_begin;  ///< I32 [rows + 1]
  Tensor col;        ///< I32 [capacity]
  Tensor value;      ///< F32 [capacity]

  bool defined() const { return row_begin.defined(); }
  std::int64_t nnz() const { return defined() ? row_begin.data<std::int32_t>()[rows] : 0; }
};

struct QTensor {
  ElementFormat element = ElementFormat::BF16;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  Granularity granularity;
  ScaleFormat scale_format = ScaleFormat::None;
  Tensor codes;
  Tensor scales;
  float tensor_scale = 1.0f;  ///< the second level of Nvfp4; 4/3 of RangeMatch34; a factor on the whole product
  /// On a GPU: F32 [1] there, a factor of tensor_scale that only the device knows (the second level of Nvfp4);
  /// undefined = 1.
  Tensor device_scale;
  /// The second level of Nvfp4 where it covers `outer` columns of a row: F32 [rows, ceil(cols / outer)].
  Tensor outer_scales;
  std::int64_t outer = 0;
  /// Trust mask: bit c % 8 of byte c / 8 of a row, U8 [rows, ceil(cols / 8)]; undefined unless the spec asks for it.
  Tensor mask;
  /// Stored is the transpose [cols, rows] of what was quantised (QuantizeContext::for_product); rows, cols and
  /// everything else describe what is stored.
  bool turned = false;
  /// The transform that the values lie in: value(r, c) are those of x after it.
  Hadamard hadamard;
  CsrMatrix residual;  ///< defined when the clamp keeps a sparse residual
  /// Where a carrier re-expresses the elements (QuantSpec::carrier), or a dense or fused residual is in them: the
  /// decode scales of the E2M1 elements, F32, tensor scale included, one for each block of `element_granularity`
  /// (`scales` itself with a fused residual). Undefined elsewhere.
  Tensor element_scales;
  Granularity element_granularity;

  /// A BF16 or F32 matrix as an operand, without a copy.
  static QTensor view(const Tensor& matrix);
  /// What `quantize` by `spec` stores as rows and columns, without its tensors.
  static QTensor form_of(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

  std::int64_t block_rows() const { return granularity.rows == 0 ? rows : granularity.rows; }
  std::int64_t block_cols() const { return granularity.cols == 0 ? cols : granularity.cols; }
  std::int64_t code_row_bytes() const { return (cols * element_bits(element) + 7) / 8; }
  /// Rows and columns of the scale matrix.
  std::int64_t scale_rows() const { return rows == 0 ? 0 : (rows + block_rows() - 1) / block_rows(); }
  std::int64_t scale_cols() const { return cols == 0 ? 0 : (cols + block_cols() - 1) / block_cols(); }
  /// Decode scale of the block that holds (r, c), outer and tensor scale included; 1 for F32 and BF16.
  float scale_at(std::int64_t r, std::int64_t c) const;
  /// Value of one element without the residual; slow, for tests and small tensors.
  float value_at(std::int64_t r, std::int64_t c) const;
};

/// Codes, scales and, on request, the mask of a q whose shape and formats are set.
void allocate_parts(QTensor& q, bool mask, Arena& arena);

/// Bytes that codes, scales and mask take (the outer scales too); the residual is not counted.
std::size_t stored_bytes(const QTensor& q);

}  // namespace nibble
