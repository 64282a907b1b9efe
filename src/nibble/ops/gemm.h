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
  Int8,       ///< four-bit codes as int8, int32 accumulation (exact), scales in the epilogue
  Int8Block,  ///< four-bit codes as int8, an exact int32 sum a block of the contraction, scaled and added in F32
  Bf16,       ///< operands exact in BF16, BF16 dot-product instructions, F32 accumulation
  F32,        ///< operands decoded to F32, F32 accumulation
  Fp8,        ///< GPU: operands exact in FP8, scales outside the contraction or for 128 elements of it, or MXFP4
  Native,     ///< GPU: NVFP4 or MXFP4 as stored, block-scaled FP4 tensor cores (ops/native.h), after a self-test
};
/// "int8", "int8 by block", "bf16", "f32", "fp8", "native".
const char* gemm_path_name(GemmPath path);

/// The path `gemm` takes.
///
///   Int8       both operands four-bit (E2M1, Int4, E3M0: integers up to 12/2, 7, 64/4), every remaining scale constant
///              along the contraction, K < 2^31 / the largest product of two integers (14.9 million for E2M1)
///   Int8Block  both four-bit, but not both E3M0, and no scale varies within aligned blocks of 16 of the contraction:
///              MXFP4, NVFP4 (1x16 or 16x16, also `transposed` tiles; with F32 scales of stretches of a row too), a
///              block-scaled operand by one with outer scales
///   Bf16       both operands decode exactly to BF16, and the CPU multiplies BF16 natively
///   F32        everything else
///
/// Exact in BF16 are BF16 values; codes with outer scales; codes times inner scales that are powers of two (MXFP4,
/// MXFP8); four-bit codes times UE4M3 scales (NVFP4). Not exact: inner F32 scales in general, so NVFP4 with F32 scales
/// of stretches along the contraction (Nvfp4Scale::outer).
///
/// Int8Block comes before Bf16 on every CPU. Rates over oneDNN's F32 product of the same shape, blocks of 32 (16), from
/// packed codes to C, measured on Zen 4, also held to older extensions:
///
///   AVX-512 VNNI and BF16   by block 2.7-2.9 (2.3-2.4)    through BF16 1.7-1.8 (1.5-1.7)    through F32 0.9
///   AVX2                    by block 2.0 (1.4)                                              through F32 0.8 (0.75)
///   SSE2 (no kernel)        by block 0.85 (0.75)                                            through F32 0.85
///
/// So the path, and with it the bits of such a product, follow from the operands alone.
GemmPath gemm_path(const GemmOperand& a, const GemmOperand& b);

/// Which tensor cores multiply MXFP4 by MXFP4 (E2M1, blocks of 1 x 32 along the contraction, neither operand
/// `transposed`) on a GPU that has both.
///
///   Bf16   F32 sums, within 2^-16 of sum_k |A B| as for all products on that path
///   Fp8    at FP8's rate. Each row is rewritten, exactly, as E4M3 under one power of two. Blocks that cannot be, since
///          their exponent is more than 14 below the largest of the row or the row's scale is beyond 2^-60 to 2^60, are
///          multiplied by block, as on Int8Block, and added in F32; their rows are counted (mx_row_count)
///
/// On Fp8 Hopper's accumulators sum each aligned stretch of 128 products, 32 of them (one block) an instruction, and
/// F32 sums of the stretches follow. An accumulator keeps 14 bits; an instruction cuts its addends off 13 bits below
/// the largest. Within a block all products have one exponent, so that nothing is lost; between blocks something can
/// be. With u(row, stretch) = sum_k (code * 2^(e_k - e))^2, e_k the exponents and e the least of a block that is not
/// zero:
///
///   A stretch's sum is exact where u < 4096 for both rows. By Cauchy and Schwarz all its parts are then below
///   2^12 * 2^(e_A + e_B), and multiples of a quarter of that unit: 14 bits. Rows of normal values have u = 2,300.
///
///   In any case it is within 2^-6 of sum |A B|: each of the three blocks after the first costs at most 2^-8 of the
///   sum before it (32 products below its 13 bits), and cutting the results 2^-13 each.
///
/// Losses are rare where nothing is made to provoke them. By that model of the accumulators, of the sums over 2048 of
/// an X whose channels differ by factors exp(N(0, 1.5)), with u far above 4096, 1 % are inexact; the error is 2^-16 of
/// C in the root mean square.
enum class MxProducts : std::uint8_t { Fp8, Bf16 };
/// For this process, from the next product on; Fp8 unless set.
void set_mx_products(MxProducts products);
MxProducts mx_products();

/// Where FP8 tensor cores keep the sums of a product on GemmPath::Fp8 (MXFP4's apart, which are F32's always).
///
///   F32   F32, to which the accumulators' sum of each stretch of 128 products is added
///   Fast  in the accumulators over the whole contraction (cuBLASLt's fast accumulation): 14 bits, so each partial sum
///         loses up to 2^-13 of itself. FP4 by FP4 stays exact while |sum| < 2^11 (multiples of 1/4), which sums of
///         normal values over 8192 keep; sums of one sign do not. 1.1 to 1.5 times as fast
enum class Fp8Accumulation : std::uint8_t { F32, Fast };
/// For this process, from the next product on; F32 unless set.
void set_fp8_accumulation(Fp8Accumulation accumulation);
Fp8Accumulation fp8_accumulation();

/// Rows of MXFP4 operands that went through Fp8 on a device since the process began, counted in every product that
/// they were part of, and how many of them had blocks that were multiplied apart. Waits for the device.
struct MxRowCount {
  std::int64_t by_block = 0;
  std::int64_t rows = 0;
};
MxRowCount mx_row_count(Device device);

/// C is F32 or BF16 [M, N]. Residuals of the operands are not part of the product (ops/spmm.h adds them).
/// Scales that are constant along the contraction, the tensor scale always among them, are applied in the epilogue, in
/// F32: C = (float(acc) * scale_a[m]) * scale_b[n]; others when the operand is decoded, except on the Int8Block path:
///
///   acc[m, n] = sum over blocks b of 32 (16 where a scale asks for it), ascending, in F32, of
///               (float(sum_{k in b} A[m, k] * B[n, k]) * scale_a[m, b]) * scale_b[n, b]
///
/// where A and B are the decoded codes; the sum over k is exact, and the term is too with E8M0 and UE4M3 scales unless
/// it leaves the range of F32. The result does not depend on the number of threads; on the two integer paths not on the
/// CPU either. The Bf16 path takes subnormal values as zero. Scratch: one decoded tile of A and one of B a thread, and
/// at most 16 MiB (or one tile, if larger) of packed B. Throws InternalError when the contractions or the shape of C
/// differ.
void gemm(const GemmOperand& a, const GemmOperand& b, const Tensor& c, Accumulate accumulate, Arena& scratch);

/// C = addend + A B^T: as a copy of the addend to C and a product that adds, without the pass for the copy where the
/// library can read the one and write the other. The addend has C's shape, dtype and device, and may be C.
void gemm_onto(const Tensor& addend, const GemmOperand& a, const GemmOperand& b, const Tensor& c, Arena& scratch);

}  // namespace nibble
