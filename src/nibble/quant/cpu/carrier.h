// The elements in another form: the carrier cast, four-bit values under any scales re-expressed in an 8-bit format
// under one scale of the tensor; and the dense residual, added to the values in BF16.
#pragma once

#include "nibble/quant/cpu/job.h"

namespace nibble::quant_cpu {

/// form.element_scales (allocated) = the decode scales of `elements`, everything multiplied in.
void copy_element_scales(const QTensor& elements, const QTensor& form);

/// Fills `carried`'s codes and scale (allocated) from `elements`.
void carry(const QTensor& elements, QTensor& carried);

/// Fills `sum`'s codes (BF16, allocated) with the values of job.q plus what the clamp cut off. The bounds of rows stand
/// in the job.
void add_dense_residual(const Job& job, QTensor& sum);

}  // namespace nibble::quant_cpu
