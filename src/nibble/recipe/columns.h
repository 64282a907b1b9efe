// Some columns of a matrix on their own: the outlier channels of X and W, and their way back into dX and dW.
#pragma once

#include "nibble/ops/gemm.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// out[r, j] = x[r, columns[j]]; x and out F32 or BF16 of one dtype, columns I32 [m], out [rows, m].
void gather_columns(const Tensor& x, const Tensor& columns, const Tensor& out);
/// to[r, columns[j]] (+)= part[r, j]; part F32 [rows, m], to F32 or BF16. Columns are distinct.
void scatter_columns(const Tensor& part, const Tensor& columns, const Tensor& to, Accumulate accumulate);
/// x[r, columns[j]] = 0.
void zero_columns(const Tensor& x, const Tensor& columns);
/// sums[c] += sum over r of x[r, c]^2; x F32 or BF16, sums F32 [cols]. One pass is summed in double.
void add_column_squares(const Tensor& x, const Tensor& sums);
/// factors[c] = 0 for the columns, else 1; factors F32. As a factor of a matrix's columns it hides them.
void hiding_factors(const Tensor& columns, const Tensor& factors);
/// to[r, first + c] = from[r, c] for the columns that `to` has; one dtype of any kind and number of rows.
void place_columns(const Tensor& from, const Tensor& to, std::int64_t first);
/// out[r, c] = x[r, c] for the columns that out has; one dtype and number of rows.
void first_columns(const Tensor& x, const Tensor& out);

}  // namespace nibble
