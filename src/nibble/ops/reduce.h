// Reductions over flat tensors, in a fixed order.
#pragma once

#include "nibble/tensor/tensor.h"

namespace nibble {

/// sum x^2 over an F32 tensor, accumulated in double over fixed chunks; NaN or infinity anywhere shows in the result.
double sum_of_squares(const Tensor& x);
/// The same of each run of `chunk` elements, the last of which may be shorter, of x in F32 or BF16: sums (U8, the bytes
/// of one double a chunk, on x's device) that a piece of a tensor has in common with the whole, where it begins at a
/// multiple of the chunk.
void squares_of_chunks(const Tensor& x, std::int64_t chunk, const Tensor& sums);
/// x *= factor (F32).
void scale_in_place(const Tensor& x, float factor);
/// to += from, elementwise, each F32 or BF16: added in F32, rounded once.
void add_in_place(const Tensor& to, const Tensor& from);
/// Position of the first non-finite element of an F32 or BF16 tensor, or -1.
std::int64_t first_non_finite(const Tensor& x);

}  // namespace nibble
