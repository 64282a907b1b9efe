// The memory of a model's parameters and gradients.
//
//   values    one buffer in the order of parameter_shapes; F16 ones of linear layers, where wanted, in another
//   grads     likewise, F32 and BF16
//
// With ParameterStorage::zero = 2 whole gradients live in two buffers that take turns, a bucket in each:
//
//   bucket    0                  1            2            ...   layers     layers + 1
//             final norm, head   block L-1    block L-2          block 0    embedding
//   buffer    0                  1            0                  ...
//
// The embedding of a tied head has a gradient of its own: the head writes it first, the embedding last.
#pragma once

#include <vector>

#include "nibble/model/config.h"
#include "nibble/model/parameter.h"

namespace nibble {

class ParameterMemory {
 public:
  /// Zero-filled.
  ParameterMemory(const LlamaConfig& config, const ParameterStorage& storage, Device device);

  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// In the order in which a backward completes them.
  const std::vector<ParameterRange>& buckets() const { return buckets_; }
  /// All values but those in F16, with the padding of pieces; where ranks share values, this rank's.
  const Tensor& flat_values() const { return values_; }
  /// All gradients that last a step, with padding: their number divides by the ranks. F32, and BF16 where there are.
  std::vector<Tensor> flat_grads() const;
  /// Elements of the first of these before its last padding.
  std::int64_t grad_count() const { return grad_count_; }
  std::size_t value_bytes() const { return values_.view().bytes() + half_values_.view().bytes(); }
  std::size_t gradient_bytes() const;

 private:
  OwnedTensor values_;
  OwnedTensor half_values_;             // F16
  OwnedTensor half_scales_;             // F32, one a matrix in F16
  OwnedTensor grads_, narrow_grads_;    // F32 and BF16: those that last
  OwnedTensor turns_, narrow_turns_;    // those that take turns
  OwnedTensor pieces_, narrow_pieces_;  // sums of own rows
  std::int64_t grad_count_ = 0;
  std::vector<Parameter> parameters_;
  std::vector<ParameterRange> buckets_;
};

}  // namespace nibble
