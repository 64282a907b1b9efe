// Gradients of neighbouring parameters on their way to being sums over ranks of which each rank has its own rows: what
// ranks that share updates exchange (ZeRO, ParameterStorage::zero).
//
//   as stored    reduce_scatter of each matrix, F32 or BF16
//   BF16         reduce_scatter of a copy rounded to BF16
//   FP8          codes (ops/gradient_codes.h): an all_reduce Max of the amaxes; an all_to_all; sums by their owner
//   ordered      OrderedSum of each matrix, over passes and ranks
//
//                                  FP8       BF16      F32 and ordered
//   sent by a rank, bytes/element  (R-1)/R   2 (R-1)/R   4 (R-1)/R
//
// Vectors travel as they are, together, and every rank has their sum. Sums of several passes are added up in the
// pieces, in F32, rounded to the gradients' dtype after each.
#pragma once

#include <memory>

#include "nibble/train/gradient_bucket.h"

namespace nibble {

/// `memory` is the bucket's own between start and finish. `fp8` outlives it, too.
/// Communicator, model and memory outlive the bucket.
std::unique_ptr<GradientBucket> make_piece_bucket(ExchangeFormat format, Communicator& communicator, Llama& model,
                                                  const ParameterRange& range, Arena& memory, const Fp8Sums& fp8);
/// The ordered sum of a step of `micro_batches` passes by all ranks.
std::unique_ptr<GradientBucket> make_ordered_bucket(Communicator& communicator, Llama& model,
                                                    const ParameterRange& range, Arena& memory,
                                                    std::int64_t micro_batches);

}  // namespace nibble
