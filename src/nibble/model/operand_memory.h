// Bytes of a quantised operand and of the scratch memory that quantising and multiplying take, by shape alone: what
// quant/ and ops/ allocate from an arena.
#pragma once

#include "nibble/ops/gemm.h"

namespace nibble {

/// An operand as it would be stored. `form` has every field but memory.
struct OperandMemory {
  QTensor form;
  double kept = 0;     ///< bytes that stay with the operand; 0 where X itself serves
  double scratch = 0;  ///< bytes beside them while it is quantised
  double copy = 0;     ///< bytes of the values that it is quantised from, where those are written out for it
};

/// Of X [rows, cols] in `source` precision, quantised by `spec`. `folded`: factors of rows or columns are multiplied
/// in, so X itself never serves. `for_product`: nothing but products reads the codes, which a GPU then stores wider
/// where its products want them so.
OperandMemory operand_memory(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, DType source, bool folded,
                             bool for_product, Device device);

/// Scratch of `gemm`: on the CPU packed tiles and those of each thread; on a GPU operands in the form that its products
/// read. Within a few per cent for the products of a training step.
double product_scratch(const GemmOperand& a, const GemmOperand& b, Device device);

/// Scratch of `spmm_fprop` and `spmm_wgrad` with the residual of an X [rows, cols]; dY [rows, outputs].
double spmm_fprop_scratch(const Clamp& clamp, std::int64_t rows, std::int64_t cols, Device device);
double spmm_wgrad_scratch(const Clamp& clamp, std::int64_t rows, std::int64_t cols, std::int64_t outputs, DType dy,
                          Device device);

}  // namespace nibble
