// Errors of the two candidate scales of four-over-six (Cook et al. 2025, "Four Over Six"), a row at a time.
#pragma once

#include "nibble/numerics/e2m1.h"
#include "nibble/quant/quant_spec.h"

namespace nibble::quant_cpu {

/// With e = y - RND(y * multiplier[j]) * decode[j] for the columns of block j (of `block` columns, the last may be
/// short), under each of the two candidates,
///
///   Mse      err[j] += sum e^2        Mae   err[j] += sum |e|        MaxAbs   err[j] = max(err[j], |e|)
///
/// so that a block of several rows is measured by one call a row, err starting at zero. RND is the E2M1 rounding under
/// the tie rule of `rounding`; a rounding that is none of the Nearest rules is judged as NearestEven. F32: within a
/// row lane l of sixteen adds the columns l, l + 16, ... of the block, then the lanes are added by halves.
/// A NaN in y leaves the errors unspecified under MaxAbs, NaN otherwise.
void four_over_six_errors(const float* y, std::int64_t n, std::int64_t block, Rounding rounding, Selection selection,
                          const float* multiplier6, const float* decode6, const float* multiplier4,
                          const float* decode4, float* err6, float* err4);

}  // namespace nibble::quant_cpu
