// The optimizer's state over all parameters of a model.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "nibble/model/llama.h"
#include "nibble/optim/adamw.h"
#include "nibble/train/config.h"

namespace nibble {

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// Updates every parameter from its gradient; `step` is as for AdamWStep, weight decay as the parameter says.
  virtual void step(AdamWStep step) = 0;
  /// Calls f(name, tensor) for every state tensor, in a fixed order: how checkpoints read and write them.
  virtual void visit(const std::function<void(const std::string&, const Tensor&)>& f) const = 0;
  /// To be called when the parameters were changed from outside (a checkpoint without optimizer state).
  virtual void parameters_changed() {}
  /// Of all state tensors, those among them that are the model's own weights.
  std::size_t bytes() const;
};

/// How a model stores its parameters for an optimizer: FP8-LM's master weights are the model's own.
ParameterStorage storage_for(OptimizerKind kind, DType gradients, int ranks = 1);

/// `model` must outlive the optimizer.
std::unique_ptr<Optimizer> make_optimizer(OptimizerKind kind, Llama& model);

}  // namespace nibble
