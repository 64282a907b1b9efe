// The optimizer's state over all parameters of a model. Where ranks share updates (ParameterStorage::zero) a rank has
// the states of its own rows of matrices and updates these; then all ranks gather the new values. The states' scales,
// one a tensor, are agreed on, so that the result has the bits of one rank.
#pragma once

#include <functional>
#include <memory>

#include "nibble/model/llama.h"
#include "nibble/model/state_tensor.h"
#include "nibble/optim/adamw.h"
#include "nibble/train/config.h"

namespace nibble {

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// Updates every parameter from its gradient; `step` is as for AdamWStep, weight decay as the parameter says.
  virtual void step(AdamWStep step) = 0;
  /// Calls f for every state tensor, or this rank's rows of it, in a fixed order: how checkpoints read and write them.
  virtual void visit(const std::function<void(const StateTensor&)>& f) const = 0;
  /// To be called when the parameters were changed from outside (a checkpoint without optimizer state).
  virtual void parameters_changed() {}
  /// Of all state tensors on this rank, those among them that are the model's own weights.
  std::size_t bytes() const;
};

/// How a model stores its parameters for an optimizer: FP8-LM's master weights are the model's own.
ParameterStorage storage_for(OptimizerKind kind, DType gradients);

/// Among the ranks that the model is stored for. `model` must outlive the optimizer.
std::unique_ptr<Optimizer> make_optimizer(OptimizerKind kind, Llama& model);

}  // namespace nibble
