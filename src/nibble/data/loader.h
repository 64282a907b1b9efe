// Batches of training sequences. Sequence w of a split is the window of seq_len + 1 tokens that begins at token
// w * seq_len of its concatenated shards: the first seq_len of them are the inputs, the last seq_len the targets.
//
//   tokens    t0 t1 t2 t3 t4 t5 t6 t7 ...        seq_len 3: inputs  [t0 t1 t2] [t3 t4 t5] ...
//   windows   [---- 0 ---]                                  targets [t1 t2 t3] [t4 t5 t6] ...
//                      [---- 1 ---]
//
// Every token but the first is a target at most once an epoch; a tail shorter than a window is left out.
//
// Documents follow each other without padding, and nothing tells the model where a window crosses their border: a token
// sees all that stands before it in its window, parts of earlier documents included.
//
// Where shards have a loss mask (data/shard.h), a target that does not count is kIgnoredTarget, and windows without a
// target that counts are left out of the epochs, since no gradient would come of them: each sequence has one at least.
#pragma once

#include <cstdint>
#include <vector>

#include "nibble/data/dataset.h"

namespace nibble {

/// A target that adds nothing to loss and gradient (ops/cross_entropy.h).
inline constexpr std::int32_t kIgnoredTarget = -1;

/// The whole state of a loader.
struct LoaderPosition {
  std::int64_t epoch = 0;
  std::int64_t index = 0;  ///< sequences taken from this epoch
  friend bool operator==(const LoaderPosition&, const LoaderPosition&) = default;
};

enum class LoaderOrder : std::uint8_t {
  Shuffled,    ///< each epoch in its own permutation of (seed, epoch)
  Sequential,  ///< windows 0, 1, 2, ...: validation
};

class Loader {
 public:
  /// UserError when the split has no full window, or none with a target that counts.
  Loader(ShardSet shards, std::int64_t seq_len, LoaderOrder order, std::uint64_t seed = 0);

  /// Sequences in an epoch.
  std::int64_t count() const { return count_; }
  std::int64_t seq_len() const { return seq_len_; }
  const ShardSet& shards() const { return shards_; }

  LoaderPosition position() const { return position_; }
  /// UserError for a position that this data cannot have: the checkpoint belongs to other data or another seq_len.
  void set_position(LoaderPosition position);

  /// Fills tokens and targets, I32 [batch, seq_len] each, and moves on. The end of an epoch may lie within a batch.
  void next_batch(std::int64_t batch, std::int32_t* tokens, std::int32_t* targets);
  /// Moves on by `sequences` without reading them: the share of other ranks.
  void skip(std::int64_t sequences);

 private:
  void leave_out_uncounted_windows(std::int64_t windows);
  ShardSet shards_;
  std::vector<std::int64_t> windows_;  // with a target that counts, ascending; empty where there is no mask
  std::int64_t seq_len_;
  std::int64_t count_;
  LoaderOrder order_;
  std::uint64_t seed_;
  LoaderPosition position_;
};

}  // namespace nibble
