// Llama::score: a pass over packed sequences, and logits where they are asked for.
#include <algorithm>

#include "nibble/model/llama.h"
#include "nibble/ops/cross_entropy.h"
#include "nibble/ops/embedding.h"
#include "nibble/ops/rmsnorm.h"
#include "nibble/tensor/device.h"

namespace nibble {

// The embedding's look-up copies rows of F32; pairs of BF16 numbers travel in them as they are.
Tensor Llama::gather(const Tensor& x, const Tensor& rows) {
  const std::int64_t words = x.cols() * static_cast<std::int64_t>(dtype_size(x.dtype())) / 4;
  require(words * 4 == x.cols() * static_cast<std::int64_t>(dtype_size(x.dtype())), "rows of {} cannot be gathered",
          to_string(x));
  const Tensor result = arena_.allocate(x.dtype(), {rows.numel(), x.cols()});
  embedding_forward(rows, Tensor(x.raw(), DType::F32, {x.rows(), words}, device_),
                    Tensor(result.raw(), DType::F32, {rows.numel(), words}, device_));
  return result;
}

std::vector<TokenScore> Llama::score(const PackedSequences& packed, std::span<const TokenQuery> queries, bool greedy) {
  const ArenaScope scope(arena_);
  require(packed.seq <= config_.seq, "a sequence of {} tokens; the model takes up to {}", packed.seq, config_.seq);
  const auto ids = [](const std::vector<std::int32_t>& values) {
    return Tensor::of(values.data(), {static_cast<std::int64_t>(values.size())});
  };
  const Tensor x = forward(ids(packed.tokens),
                           {packed.sequences, packed.seq, to_device(ids(packed.at)), to_device(ids(packed.place))});
  const auto count = static_cast<std::int64_t>(queries.size());
  const std::int64_t chunk = std::min(head_rows(device_), count);
  std::vector<TokenScore> scores;
  std::vector<float> there;  // logits of a GPU
  for (std::int64_t begin = 0; begin < count; begin += chunk) {
    const ArenaScope chunk_scope(arena_);
    const std::int64_t n = std::min(chunk, count - begin);
    std::vector<std::int32_t> rows;
    std::vector<std::int32_t> targets;
    for (const TokenQuery& query : queries.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(n))) {
      require(query.target >= 0 && query.target < config_.vocab, "token {} of a vocabulary of {}", query.target,
              config_.vocab);
      rows.push_back(query.row);
      targets.push_back(query.target);
    }
    const Tensor normed = arena_.allocate(activations_, {n, config_.width});
    const Tensor rstd = arena_.allocate(DType::F32, {n});
    timed(profile_, "rmsnorm", rmsnorm_forward, gather(x, to_device(ids(rows))), parameters_[final_norm_].value,
          static_cast<float>(config_.norm_eps), normed, rstd);
    const Tensor logits = arena_.allocate(DType::F32, {n, config_.vocab});
    timed(profile_, "gemm head", gemm, GemmOperand{QTensor::view(normed)}, GemmOperand{QTensor::view(head_weight_)},
          logits, Accumulate::Overwrite, arena_);
    const Tensor losses = arena_.allocate(DType::F32, {n});
    cross_entropy_forward(logits, to_device(ids(targets)), losses);
    std::vector<float> each(static_cast<std::size_t>(n));
    copy(losses, Tensor::of(each.data(), {n}));
    const float* row = nullptr;
    if (greedy && device_ == Device::Cpu) row = logits.data<float>();
    if (greedy && device_ != Device::Cpu) {
      there.resize(static_cast<std::size_t>(n * config_.vocab));
      copy(logits, Tensor::of(there.data(), {n, config_.vocab}));
      row = there.data();
    }
    for (std::size_t i = 0; i < each.size(); ++i) {
      scores.push_back({-each[i], greedy && std::max_element(row, row + config_.vocab) - row == targets[i]});
      if (greedy) row += config_.vocab;
    }
  }
  return scores;
}

}  // namespace nibble
