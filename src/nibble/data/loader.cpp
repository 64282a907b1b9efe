#include "nibble/data/loader.h"

#include <algorithm>
#include <utility>

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
  if (shards_.masked()) leave_out_uncounted_windows(count_);
}

void Loader::leave_out_uncounted_windows(std::int64_t windows) {
  std::vector<std::uint8_t> counted(static_cast<std::size_t>(seq_len_));
  for (std::int64_t w = 0; w < windows; ++w) {
    shards_.copy_counted(w * seq_len_ + 1, counted);
    if (std::find(counted.begin(), counted.end(), 1) != counted.end()) windows_.push_back(w);
  }
  count_ = static_cast<std::int64_t>(windows_.size());
  if (count_ == 0) {
    user_error("none of the {} sequences of {} tokens has one that counts in the loss; prepare data with completions",
               windows, seq_len_);
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
  std::vector<std::uint8_t> counted(windows_.empty() ? 0 : static_cast<std::size_t>(seq_len_));
  for (std::int64_t row = 0; row < batch; ++row) {
    const std::int64_t index = order_ == LoaderOrder::Shuffled
                                   ? Permutation(count_, seed_, position_.epoch)(position_.index)
                                   : position_.index;
    const std::int64_t begin = (windows_.empty() ? index : windows_[static_cast<std::size_t>(index)]) * seq_len_;
    shards_.copy(begin, window);
    std::copy_n(window.begin(), seq_len_, tokens + row * seq_len_);
    std::copy_n(window.begin() + 1, seq_len_, targets + row * seq_len_);
    if (!windows_.empty()) {
      shards_.copy_counted(begin + 1, counted);
      for (std::int64_t i = 0; i < seq_len_; ++i) {
        if (counted[static_cast<std::size_t>(i)] == 0) targets[row * seq_len_ + i] = kIgnoredTarget;
      }
    }
    skip(1);
  }
}

void Loader::skip(std::int64_t sequences) {
  require(sequences >= 0, "skip {} sequences", sequences);
  const std::int64_t index = position_.index + sequences;
  position_ = {position_.epoch + index / count_, index % count_};
}

}  // namespace nibble
