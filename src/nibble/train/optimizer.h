// The optimizer's state over all parameters of a model.
#pragma once

#include <functional>
#include <memory>

#include "nibble/model/llama.h"
#include "nibble/optim/adamw.h"
#include "nibble/train/config.h"
#include "nibble/train/state_tensor.h"

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
ParameterStorage storage_for(OptimizerKind kind, DType gradients, int ranks = 1);

/// `model` must outlive the optimizer.
std::unique_ptr<Optimizer> make_optimizer(OptimizerKind kind, Llama& model);

}  // namespace nibble
