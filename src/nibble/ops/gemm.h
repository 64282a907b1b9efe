// Matrix products of quantised operands.
//
//   C[m, n] (+)= sum_k A[m, k] * B[n, k]
//
// Both operands are written with the contraction last; `transposed` says that the stored matrix is [k, m] (or
// [k, n]). The three products of a linear layer Y = X W^T, X [T, K], W [N, K]:
//
//   fprop  Y  [T, N] = gemm(X, W)            contraction over K
//   dgrad  dX [T, K] = gemm(dY, W^T)         contraction over N, W stored [N, K] is `transposed`
//   wgrad  dW [N, K] = gemm(dY^T, X^T)       contraction over T, both `transposed`
#pragma once

#include "nibble/quant/qtensor.h"

namespace nibble {

struct GemmOperand {
  const QTensor& matrix;
  bool transposed = false;
  /// The scales were folded into the other operand before it was quantised: multiply codes only.
  bool scales_folded = false;
};

enum class Accumulate : std::uint8_t { Overwrite, Add };

/// How a product is computed on this machine.
enum class GemmPath : std::uint8_t {
  Int8,  ///< 2 x E2M1 codes as int8, int32 accumulation (exact), scales in the epilogue
  Bf16,  ///< operands exact in BF16, BF16 dot-product instructions, F32 accumulation
  F32,   ///< operands decoded to F32, F32 accumulation
};
const char* gemm_path_name(GemmPath path);

/// The path `gemm` takes: Int8 when both operands are E2M1 and every remaining scale is constant along the
/// contraction and K <= 2^31 / 144; otherwise Bf16 when both decode exactly to BF16 and the CPU multiplies BF16
/// natively; otherwise F32. Exact in BF16 are BF16 values; codes with outer scales; codes times inner scales that are
/// powers of two (MXFP4); E2M1 codes times UE4M3 scales (NVFP4).
GemmPath gemm_path(const GemmOperand& a, const GemmOperand& b);

/// C is F32 or BF16 [M, N]. Residuals of the operands are not part of the product (ops/spmm.h adds them).
/// Scales that are constant along the contraction, the tensor scale always among them, are applied in the epilogue, in
/// F32: C = (float(acc) * scale_a[m]) * scale_b[n]; others when the operand is decoded. The result does not depend on
/// the number of threads. The Bf16 path takes subnormal values as zero. Scratch: one decoded tile of A and one of B a
/// thread, and at most 16 MiB (or one tile, if larger) of packed B. Throws InternalError when the contractions or the
/// shape of C differ.
void gemm(const GemmOperand& a, const GemmOperand& b, const Tensor& c, Accumulate accumulate, Arena& scratch);

}  // namespace nibble
