// Sums and maxima over the pieces of several ranks that lie one behind the other in the CPU's memory.
#pragma once

#include "nibble/dist/communicator.h"

namespace nibble {

/// to[i] = pieces[0][i] + pieces[1][i] + ..., or the maximum, over `ranks` pieces of to.numel() elements, by the tree
///
///   x_0   x_1   x_2   x_3   x_4        neighbours are added, then neighbours of those, and so on;
///     \   /       \   /      |         what has no neighbour goes up as it is
///      x_01        x_23     x_4
///         \        /         |
///           x_0123          x_4
///
/// BF16 is added in F32 and rounded once. Done on the calling thread. `pieces` is overwritten (it holds the tree).
void reduce_pieces(const Tensor& pieces, int ranks, const Tensor& to, Reduce reduce);

}  // namespace nibble
