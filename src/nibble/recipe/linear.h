// Linear: Y = X W^T by a recipe. It holds no weights: it is told which matrices to use, so one class serves every
// layer, and the three products of a layer can be read in one place (linear.cpp).
#pragma once

#include <array>
#include <string>

#include "nibble/ops/gemm.h"
#include "nibble/quant/quantize.h"
#include "nibble/recipe/recipe.h"
#include "nibble/tensor/profile.h"

namespace nibble {

/// Quality of the six operands, summed over whatever was measured.
using LinearQuality = std::array<QuantQuality, 6>;

/// What a pass through the layers carries along.
struct PassContext {
  Arena& arena;  ///< activations; lives until the backward of the pass is done
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  /// Position of this pass's first token in the global batch of the step: random numbers are keyed by it, so that
  /// they do not depend on how a batch is cut into micro-batches.
  std::int64_t first_token = 0;
  /// The first micro-batch of a step overwrites weight gradients, later ones add.
  bool first_micro_batch = true;
  bool measure_quality = false;
  StepProfile* profile = nullptr;  ///< receives the time of each op, when given
};

class Linear {
 public:
  /// `id` is unique in the model: it keys the random numbers. `recipe` must outlive the layer.
  Linear(std::string name, std::uint32_t id, const Recipe& recipe);

  /// Quantises the weight W [N, K] (F32) for this step, from `weight_arena`, which must outlive the step.
  void prepare(const Tensor& w, std::uint64_t seed, std::uint32_t step, Arena& weight_arena, bool measure_quality);

  /// What backward needs of forward.
  struct Saved {
    QTensor x;      ///< fprop.x as quantised (with its residual)
    Tensor source;  ///< X as given, for recipes that quantise it again in wgrad and for measurements
  };

  /// y [T, N] (+)= X W^T; x [T, K] in F32 or BF16.
  Saved forward(const Tensor& x, const Tensor& y, Accumulate accumulate, const PassContext& pass);
  /// dx [T, K] (F32 or BF16, overwritten) and dw [N, K] (F32, by pass.first_micro_batch) from dy [T, N].
  void backward(const Tensor& dy, const Saved& saved, const Tensor& dx, const Tensor& dw, const PassContext& pass);

  const std::string& name() const { return name_; }
  const Recipe& recipe() const { return recipe_; }
  /// Elements of W; known after prepare.
  std::int64_t weights() const { return weight_.numel(); }
  /// What was measured since reset_quality(); an operand that fprop's serves again has fprop's figures.
  LinearQuality quality() const;
  void reset_quality() { quality_ = {}; }
  /// How fprop, dgrad and wgrad run on this machine; known after the first pass.
  const std::array<GemmPath, 3>& paths() const { return paths_; }

 private:
  QTensor quantise(Operand operand, const Tensor& x, const QuantizeContext& context, Arena& arena, bool measure,
                   StepProfile* profile);
  QuantizeContext context_for(Operand operand, std::uint64_t seed, std::uint32_t step) const;
  void dgrad(const Tensor& dy, const Tensor& dx, const PassContext& pass, QTensor* dy_out);
  void wgrad(const Tensor& dy, const QTensor* shared_dy, const Saved& saved, const Tensor& dw, const PassContext& pass);

  std::string name_;
  std::uint32_t id_;
  const Recipe& recipe_;
  Tensor weight_;  // F32 [N, K], the source of this step
  QTensor fprop_w_;
  QTensor dgrad_w_;           // defined when dgrad quantises W by itself
  Tensor weight_transposed_;  // [K, N] BF16 or F32, for the sparse residual's product
  LinearQuality quality_;
  std::array<GemmPath, 3> paths_{GemmPath::F32, GemmPath::F32, GemmPath::F32};
};

}  // namespace nibble
