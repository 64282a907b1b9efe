// How the gradients of a step's micro-batches, which ranks compute apart, become one sum, which every rank has, or of
// which each has its own rows.
//
//   positions     0 1 2 3 | 4 5 6 7        M = 8 micro-batches on R = 2 ranks (positions_of)
//   rank          0         1
//
//   added up as they come    a rank's passes add to the model's gradients one after the other; in its last pass each
//                            range of parameters sets out as an all_reduce as soon as its gradients are written, beside
//                            the backward of the blocks below, in a format of its own if need be (gradient_bucket.h).
//                            Sums depend on R in their last bits, in FP8 in more. On one rank: what a loop over
//                            micro-batches gives, and nothing is moved.
//   ordered                  every pass overwrites the gradients, and OrderedSum adds them along a tree over positions:
//                            the same bits on any number of ranks, one included. Every rank then gathers all pieces.
//
// Ranks that share updates (ParameterStorage::zero) keep the pieces as they are (train/piece_bucket.h):
//
//   zero = 1                 as above
//   zero = 2                 whole gradients are gone two buckets later, so every pass exchanges its own; sums over
//                            ranks are added up pass after pass
//
//   backward of bucket     0        1        2        3
//   exchange                        start 0  start 1  start 2
//                                            next 0   next 1        0 no longer reads its whole gradients
//                                                     finish 0      nor the memory that bucket 3 takes next
//
// What recipes count of their activations (Llama::observed) is added up over the step's passes in the same way.
#pragma once

#include <memory>
#include <vector>

#include "nibble/dist/ordered_sum.h"
#include "nibble/model/llama.h"
#include "nibble/train/gradient_bucket.h"

namespace nibble {

class GradientExchange {
 public:
  /// Of steps of `micro_batches` passes by all ranks. The model is stored for its rank of them.
  /// UserError for fewer passes than ranks, and for an ordered sum that is to travel in another format. `model` and
  /// `communicator` must outlive it.
  GradientExchange(Communicator& communicator, Llama& model, std::int64_t micro_batches, bool ordered,
                   ExchangeFormat format = ExchangeFormat::Stored, ExchangeScaling scaling = ExchangeScaling::Sqrt);
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  /// What this rank computes of a step.
  const Positions& mine() const { return mine_; }
  /// The most passes that a rank runs in a step; others have one less, or as many.
  std::int64_t most_passes() const { return (micro_batches_ + communicator_.size() - 1) / communicator_.size(); }
  /// Before the passes of a step: a rank that has one less than others takes part in their first.
  void begin();
  /// Whether the pass of a position overwrites the model's gradients.
  bool overwrites(std::int64_t position) const { return ordered_ || zero_ >= 2 || position == mine_.begin; }
  /// For forward_backward of a position; may be empty.
  Llama::GradientsReady ready(std::int64_t position);
  /// To be called after the pass of each of this rank's positions, in order.
  void passed();
  /// After the last one: the model's gradients, and what it observed, are sums over all passes of the step.
  void finish();
  /// Elements of this rank's pieces whose FP8 sum was held to 448 in the step that is finished; 0 for other formats.
  std::int64_t saturated() const;
  /// Of FP8 gradients.
  GradientScaling& scaling() { return fp8_.scaling; }
  /// How often an element travels in a step.
  std::int64_t exchanges() const { return zero_ >= 2 ? most_passes() : 1; }
  /// Memory that is held beside the gradients.
  std::size_t bytes() const;

 private:
  Llama::GradientsReady ready_pieces(BucketPass pass);
  bool lacks_pass() const { return mine_.size() < most_passes(); }
  void finish_pieces();
  void add_observed();
  void share_observed();

  Communicator& communicator_;
  Llama& model_;
  Positions mine_;
  std::int64_t micro_batches_;
  bool ordered_;
  ExchangeFormat format_;
  int zero_;
  std::vector<OrderedSum> sums_;  // of each of Llama::padded_grads
  std::vector<Pending> under_way_;
  std::vector<std::unique_ptr<GradientBucket>> buckets_;  // in the order in which they become ready
  std::size_t started_ = 0;                               // of this pass
  std::vector<Arena> memory_;                             // that buckets of pieces take turns at
  Fp8Sums fp8_;
  // Observations of all layers one after the other, padded to a multiple of the ranks; made when there are some.
  OwnedTensor observed_;
  std::vector<OrderedSum> observed_sum_;
};

}  // namespace nibble
