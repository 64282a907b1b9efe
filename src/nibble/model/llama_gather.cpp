// What a step computes with where ranks share the values of matrices (ZeRO-3): tables and, of all weights, the
// magnitudes that scales follow from, before its first pass; then the weights themselves, of all blocks at once or of a
// block at work and the next:
//
//   forward     0        1        ...   L-1            head    backward   L-1      L-2      ...   0
//   gathered    0  1     2              (for both)                        L-2      L-3
//   window      0  1     0                                                L-2 takes turns with L-1
#include "nibble/dist/gather.h"
#include "nibble/model/llama.h"
#include "nibble/ops/reduce.h"
#include "nibble/tensor/device.h"

namespace nibble {

WeightRows Llama::weight_rows(std::size_t index, const Tensor& values) const {
  return {values, parameters_[linear_parameters_[index]].pieces, storage_.rank()};
}

void Llama::gather_step() {
  gather_tables();
  find_magnitudes();
  if (storage_.gathers_in_passes()) return;
  // Layers are quantised while the codes of those before them travel.
  for (std::size_t b = 0; b < blocks(); ++b) {
    start_block(b, WeightUse::Both, false, weight_arena_);
    if (b > 0) finish_block(b - 1);
  }
  finish_block(blocks() - 1);
}

void Llama::gather_tables() {
  const auto start = [&](const Parameter& p, DType dtype) {
    return ValueGather(p.own_values(), dtype, p.pieces, *storage_.communicator, weight_arena_);
  };
  ValueGather embedding = start(parameters_[embedding_], DType::F32);
  const bool head_apart = activations_ == DType::BF16 || head_ != embedding_;
  ValueGather head = head_apart ? start(parameters_[head_], activations_) : ValueGather();
  embedding_rows_ = embedding.finish();
  head_weight_ = head_apart ? head.finish() : embedding_rows_;
}

void Llama::find_magnitudes() {
  const ArenaScope scope(arena_);
  first_magnitude_ = {0};
  for (std::size_t i = 0; i < linears_.size(); ++i) {
    const ArenaScope layer(arena_);
    const Tensor w = weight_if(linears_[i].recipe().weight_average.enabled(), i, arena_);
    first_magnitude_.push_back(first_magnitude_.back() + linears_[i].magnitudes(weight_rows(i, w)));
  }
  magnitudes_ = weight_arena_.allocate(DType::I32, {first_magnitude_.back()});
  fill_zero(magnitudes_);
  for (std::size_t i = 0; i < linears_.size(); ++i) {
    if (magnitudes_of(i).numel() == 0) continue;
    const ArenaScope layer(arena_);
    linears_[i].find_magnitudes(weight_rows(i, weight(i, arena_)), seed_, step_, magnitudes_of(i), arena_);
  }
  if (magnitudes_.numel() > 0) storage_.communicator->all_reduce(magnitudes_, Reduce::Max);
}

Tensor Llama::magnitudes_of(std::size_t index) const {
  return magnitudes_.elements(first_magnitude_[index], first_magnitude_[index + 1]);
}

void Llama::start_block(std::size_t block, WeightUse use, bool again, Arena& to) {
  for (std::size_t i = block * kLinearsPerBlock; i < (block + 1) * kLinearsPerBlock; ++i) {
    const ArenaScope scope(arena_);
    const WeightGather& gather =
        linears_[i].start_prepare(weight_rows(i, weight(i, arena_)), magnitudes_of(i), *storage_.communicator, seed_,
                                  step_, to, arena_, use, measured_, again);
    gathered_.bytes += gather.bytes();
    gathered_.bf16_bytes += gather.bf16_bytes;
  }
}

void Llama::finish_block(std::size_t block) {
  for (std::size_t i = block * kLinearsPerBlock; i < (block + 1) * kLinearsPerBlock; ++i) {
    const ArenaScope scope(arena_);
    linears_[i].finish_prepare(arena_);
  }
}

void Llama::start_in_window(std::size_t block, WeightUse use, bool again) {
  Arena& window = windows_[block % windows_.size()];
  window.rewind({});
  start_block(block, use, again, window);
}

void Llama::enter_forward(std::size_t block, bool backward_follows) {
  if (!storage_.gathers_in_passes()) return;
  const auto start = [&](std::size_t b) {
    const bool stays = backward_follows && b + 1 == blocks();
    start_in_window(b, stays ? WeightUse::Both : WeightUse::Forward, passes_ > 0);
  };
  if (block == 0) start(0);
  finish_block(block);
  if (block + 1 < blocks()) start(block + 1);
}

void Llama::enter_backward(std::size_t block) {
  if (!storage_.gathers_in_passes()) return;
  if (block + 1 < blocks()) finish_block(block);
  if (block == 0) return;
  start_in_window(block - 1, recompute_ == Recompute::Block ? WeightUse::Both : WeightUse::Backward, true);
}

void Llama::accompany(const GradientsReady& ready) {
  std::size_t bucket = 0;
  const auto complete = [&] {
    const ParameterRange& range = memory_.buckets()[bucket];
    if (ready) {
      for (std::size_t i = range.first; i < range.last; ++i) fill_zero(parameters_[i].grad);
      ready(bucket);
    }
    ++bucket;
  };
  for (std::size_t b = 0; b < blocks(); ++b) enter_forward(b, true);
  complete();
  for (std::size_t b = blocks(); b-- > 0;) {
    enter_backward(b);
    complete();
  }
  complete();
  ++passes_;
}

void Llama::accompany_evaluation() {
  for (std::size_t b = 0; b < blocks(); ++b) enter_forward(b, false);
}

std::int64_t Llama::store_resets(const Parameter& p, const Tensor& values, std::int64_t own) {
  Communicator& ranks = *storage_.communicator;
  std::int64_t all = 0;
  for (const std::int64_t of_rank : gather_value(ranks, own)) all += of_rank;
  if (all == 0 || !p.in_half()) return all;
  const Tensor amax = arena_.allocate(DType::I32, {1});
  fill_zero(amax);
  scaled_measure(values, amax);
  ranks.all_reduce(amax, Reduce::Max);
  scaled_store(values, amax, {p.own_values(), p.half.scale_inv});
  return all;
}

}  // namespace nibble
