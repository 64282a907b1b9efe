// The scales that are constant along the contraction, and the last step of products that the library cannot scale.
#pragma once

#include "nibble/ops/gemm.h"

namespace nibble::cuda {

/// What multiplies C[m, n]: factor * device[2] * rows[m] * cols[n], of which the pointers can be null (1).
struct OuterScales {
  float factor = 1.0f;            ///< known on the host
  const float* device = nullptr;  ///< {of A, of B, their product, beta} on the device
  const float* rows = nullptr;    ///< [M]
  const float* cols = nullptr;    ///< [N]
};

/// The scales of both operands that wait for the epilogue: a number of the host where the host knows it, one of the
/// device, or, where either operand's vary along C, a vector for each. `beta` is stored beside those of the device.
OuterScales outer_scales(const GemmOperand& a, const GemmOperand& b, float beta, Arena& scratch);

/// C[m, n] (+)= sums[m, n] times the scales; sums F32, rows `stride` apart, or C itself. Rows of C start at first_row
/// of the scales.
void scale_sums(const float* sums, std::int64_t stride, const OuterScales& scales, std::int64_t first_row,
                const Tensor& c, Accumulate accumulate);

}  // namespace nibble::cuda
