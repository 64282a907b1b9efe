#include "nibble/data/loader.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "nibble/data/permutation.h"
#include "nibble/tensor/error.h"

namespace nibble {

Loader::Loader(ShardSet shards, std::int64_t seq_len, LoaderOrder order, std::uint64_t seed)
    : shards_(std::move(shards)), seq_len_(seq_len), order_(order), seed_(seed) {
  require(seq_len >= 1, "sequences of {} tokens", seq_len);
  count_ = std::max<std::int64_t>(shards_.tokens() - 1, 0) / seq_len;
  if (count_ == 0) {
    user_error("the data has {} tokens, too few for one sequence of {}; prepare more text or shorten the sequences",
               shards_.tokens(), seq_len);
  }
}

void Loader::set_position(LoaderPosition position) {
  if (position.epoch < 0 || position.index < 0 || position.index >= count_) {
    user_error(
        "position {} of epoch {} does not exist in data of {} sequences; resume with the data the run began with",
        position.index, position.epoch, count_);
  }
  position_ = position;
}

void Loader::next_batch(std::int64_t batch, std::int32_t* tokens, std::int32_t* targets) {
  std::vector<std::int32_t> window(static_cast<std::size_t>(seq_len_) + 1);
  for (std::int64_t row = 0; row < batch; ++row) {
    const std::int64_t index = order_ == LoaderOrder::Shuffled
                                   ? Permutation(count_, seed_, position_.epoch)(position_.index)
                                   : position_.index;
    shards_.copy(index * seq_len_, window);
    std::copy_n(window.begin(), seq_len_, tokens + row * seq_len_);
    std::copy_n(window.begin() + 1, seq_len_, targets + row * seq_len_);
    skip(1);
  }
}

void Loader::skip(std::int64_t sequences) {
  require(sequences >= 0, "skip {} sequences", sequences);
  const std::int64_t index = position_.index + sequences;
  position_ = {position_.epoch + index / count_, index % count_};
}

}  // namespace nibble
