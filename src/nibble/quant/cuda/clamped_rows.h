// Rows of BF16 under bounds of their own, in one pass: bounds, residual and elements.
#pragma once

#include "nibble/quant/cuda/job.h"

namespace nibble::quant_cuda {

// clamped_rows.cu
/// Whether the bounds of the job's rows can be found with the rows in registers.
bool fits_row_selection(const Job& job);
/// The same and no more: bounds of all rows; with `counts`, how many entries each row has outside.
void select_row_bounds(const Job& job, Bounds* bounds, std::int32_t* counts);

/// Whether all of the job can be done in that pass: rounding to nearest, up or even, under one absmax scale a row.
bool fits_clamped_rows(const Job& job);
/// Codes, scales and residual (where it is defined); notes the bounds in the source.
void encode_clamped_rows(Job& job, const CsrMatrix& residual);

/// What the clamp cut off, as it is found: rows of `each` places, of which the first counts[r] are filled in the order
/// of their columns.
struct CutOff {
  std::uint32_t column;
  float value;
};
struct CutOffRows {
  CutOff* places = nullptr;
  std::int64_t each = 0;
  std::int32_t* counts = nullptr;
};

// residual.cu
/// Fills the residual from what was cut off.
void gather_residual(const Job& job, const CutOffRows& rows, const CsrMatrix& residual);

}  // namespace nibble::quant_cuda
