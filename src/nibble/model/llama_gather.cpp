// What a step computes with where ranks share the values of matrices (ZeRO-3).
#include "nibble/dist/gather.h"
#include "nibble/model/llama.h"
#include "nibble/ops/reduce.h"
#include "nibble/tensor/device.h"

namespace nibble {

WeightRows Llama::weight_rows(std::size_t index, const Tensor& values) const {
  return {values, parameters_[linear_parameters_[index]].pieces, storage_.rank()};
}

// Layers are quantised while the codes of those before them travel.
void Llama::gather_linears(std::uint32_t step, bool measure_quality) {
  constexpr std::size_t kUnderWay = 4;
  Communicator& ranks = *storage_.communicator;
  const ArenaScope scope(arena_);
  std::vector<std::int64_t> first{0};  // of each layer's magnitudes
  for (std::size_t i = 0; i < linears_.size(); ++i) {
    const ArenaScope layer(arena_);
    const Tensor w = weight_if(linears_[i].recipe().weight_average.enabled(), i, arena_);
    first.push_back(first.back() + linears_[i].magnitudes(weight_rows(i, w)));
  }
  const Tensor magnitudes = arena_.allocate(DType::I32, {first.back()});
  fill_zero(magnitudes);
  const auto of_layer = [&](std::size_t i) { return magnitudes.elements(first[i], first[i + 1]); };
  for (std::size_t i = 0; i < linears_.size(); ++i) {
    if (of_layer(i).numel() == 0) continue;
    const ArenaScope layer(arena_);
    linears_[i].find_magnitudes(weight_rows(i, weight(i, arena_)), seed_, step, of_layer(i), arena_);
  }
  if (first.back() > 0) ranks.all_reduce(magnitudes, Reduce::Max);
  const auto finish = [&](std::size_t i) {
    const ArenaScope layer(arena_);
    linears_[i].finish_prepare(arena_);
  };
  for (std::size_t i = 0; i < linears_.size(); ++i) {
    const ArenaScope layer(arena_);
    linears_[i].start_prepare(weight_rows(i, weight(i, arena_)), of_layer(i), ranks, seed_, step, weight_arena_, arena_,
                              WeightUse::Both, measure_quality);
    if (i >= kUnderWay) finish(i - kUnderWay);
  }
  for (std::size_t i = linears_.size() < kUnderWay ? 0 : linears_.size() - kUnderWay; i < linears_.size(); ++i) {
    finish(i);
  }
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
