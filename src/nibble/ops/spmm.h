// Products with the sparse residual of outlier clamping (OCC, Wang et al. 2025, section 3.2), in F32 or to its
// accuracy.
#pragma once

#include "nibble/quant/qtensor.h"

namespace nibble {

/// Entries a place of the matrix from which a GPU multiplies all places. On an H100 the product of all takes 0.2 ms at
/// 16384 x 2048 x 2048, whatever the entries; gathering them takes 0.25 ms for each per cent where they are spread
/// evenly, and more than twice that in wgrad where a few columns hold many of them, as those of activations do.
constexpr double kDenseResidual = 0.005;

inline bool is_dense_residual(double entries, std::int64_t rows, std::int64_t cols) {
  return entries >= kDenseResidual * static_cast<double>(rows) * static_cast<double>(cols);
}
/// By the capacity, which the host knows.
inline bool is_dense_residual(const CsrMatrix& m) {
  return is_dense_residual(static_cast<double>(m.col.numel()), m.rows, m.cols);
}

// On the CPU, and on a GPU for a residual that is not dense or a W in F32, a product is F32 sums over the entries.
//
// For a dense residual a GPU splits each entry: v = high + low, high = v rounded to BF16 (nearest, ties to even), low
// exact in F32. The high parts are multiplied as a BF16 matrix with zeros between them, on tensor cores; the low parts
// are added in F32 for the entries that have one. F32 dY is the sum of two BF16 matrices, multiplied one after the
// other, which leaves out at most 2^-17 of an element. So an element is within
//
//   2^-15 * sum |v * W[:, i]| (or |v * dY[t, :]|) + one rounding to the type of Y or dW, of what is added and of what
//   it is added to, for each product and for the low parts
//
// of the exact result (without a split: within F32 sums' error, and one rounding). There W, dY, Y and dW have to be
// finite: a zero between entries turns infinities into NaN. The order of the sums is fixed on every device.

/// Y[t, :] += sum over entries (t, i, v) of v * W[:, i]. `w_transposed` is F32 or BF16 [K, N]; y F32 or BF16 [T, N].
/// Scratch: on a GPU BF16 [T, K] for a dense residual, otherwise none.
void spmm_fprop(const CsrMatrix& residual, const Tensor& w_transposed, const Tensor& y, Arena& scratch);

/// dW[:, i] += sum over entries (t, i, v) of v * dY[t, :]. dy is F32 or BF16 [T, N], dw F32 [N, K]; entries of one
/// column are added in ascending t, whatever the number of threads, but on a GPU's tensor cores. Scratch: the entries
/// by column (8 bytes each, and counters, 4 bytes for each run of 16 rows and column on a GPU); for a dense residual on
/// a GPU, if larger, BF16 [T, K] and two of dY's shape where that is F32.
void spmm_wgrad(const CsrMatrix& residual, const Tensor& dy, const Tensor& dw, Arena& scratch);

/// to [cols, rows] = from [rows, cols] transposed; F32 or BF16, both of one dtype or converting.
void transpose(const Tensor& from, const Tensor& to);

}  // namespace nibble
