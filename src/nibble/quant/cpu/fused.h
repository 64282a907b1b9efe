// The fused residual: E2M1 codes and what lies beyond the clamp as one E4M3 element each.
#pragma once

#include "nibble/quant/cpu/job.h"

namespace nibble::quant_cpu {

/// Fills `fused`'s codes (allocated) from those of job.q, whose scales it shares, and from y beyond the bounds. The
/// bounds of rows stand in the job.
void fuse_residual(const Job& job, const QTensor& fused);

}  // namespace nibble::quant_cpu
