// How much of a step's communication hides behind its computation.
#pragma once

#include <cstddef>
#include <vector>

namespace nibble {

/// A stretch of computation, in seconds: what it waits for and what it gives away.
struct Piece {
  double compute = 0;
  double gather = 0;  ///< of weights, which have to be there before it begins; 0: nothing to wait for
  double reduce = 0;  ///< of gradients, which are ready when it has ended; 0: none
};

struct Timeline {
  double seconds = 0;        ///< until the last piece has run and the last operation is over
  double compute = 0;        ///< sum over the pieces
  double communication = 0;  ///< sum over the operations
  /// What does not fit behind computation.
  double exposed() const { return seconds - compute; }
};

/// Pieces run one after another, operations one after another beside them. With c, g, r of piece k = 0, 1, ...:
///
///   begin(k)       = max(end(k-1), gathered(k), reduced(k - buckets))
///   end(k)         = begin(k) + c(k)
///   gathered(k+1)  : on the link from begin(k) on, or when the link is free; gathered(0) from 0 on
///   reduced(k)     : on the link from end(k) on, or when the link is free
///
/// in the order gather 0, gather 1, reduce 0, gather 2, reduce 1, ...: weights are gathered one piece ahead. `buckets`
/// is how many pieces' gradients there is room for, the one being written among them (they are counted over the pieces
/// that reduce); 0 = for all.
Timeline overlap(const std::vector<Piece>& pieces, std::size_t buckets);

}  // namespace nibble
