// How recipes treat the tensors of a model on a text: one forward and backward pass by each recipe, no update.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nibble/data/tokenizer.h"
#include "nibble/inspect/figures.h"
#include "nibble/inspect/histogram.h"
#include "nibble/train/stored_model.h"
#include "nibble/train/telemetry.h"

namespace nibble {

/// The operands that stand for a layer's activations, weights and gradients in histograms.
inline constexpr std::array kPicturedOperands = {Operand::FpropX, Operand::FpropW, Operand::DgradDy};

/// A linear layer before quantisation, in a pass in BF16.
struct LayerSource {
  std::string layer;
  std::array<TensorFigures, 3> tensors;  ///< X, W, dY: the tensors of kPicturedOperands
  ChannelFigures channels;               ///< of X
};

struct RecipeInspection {
  std::string recipe;
  double loss = 0;  ///< of the text, nats a token
  Telemetry telemetry;
  /// Of each layer: which operands have fewer bits than BF16 (an operand that serves again counts as what it was).
  std::vector<std::array<bool, 6>> quantised;
  /// Of each layer, for kPicturedOperands, in the pass by this recipe.
  std::vector<std::array<Histogram, 3>> histograms;
};

struct Inspection {
  std::string checkpoint;
  std::string model;
  std::int64_t step = 0;  ///< of training, at the checkpoint
  std::int64_t sequences = 0;
  std::int64_t seq = 0;  ///< tokens a sequence
  double loss = 0;       ///< in BF16
  std::vector<LayerSource> layers;
  std::vector<RecipeInspection> recipes;
};

/// The first `sequences` * seq + 1 ids of the text as training would see it: documents with </s> between them.
/// UserError where the text is too short.
std::vector<std::int32_t> inspection_tokens(const std::filesystem::path& text, const Tokenizer& tokenizer,
                                            const LlamaConfig& model, std::int64_t sequences);

/// Runs the model's weights in BF16, then by each recipe in its first stage, on the `sequences` * seq + 1 ids as one
/// batch on `device`. Random numbers are those of the model's seed at its step. UserError where the weights are not the
/// model's, or a recipe does not fit it.
Inspection inspect_model(const StoredModel& model, const std::vector<Recipe>& recipes,
                         const std::vector<std::int32_t>& ids, Device device = Device::Cpu);

/// |q - p| / |p| of a product p computed as q (product_quality.h); 0 where it is not quantised.
double relative_error(const ProductQuality& product);

struct WorstLayer {
  std::size_t layer = 0;
  std::size_t product = 0;  ///< fprop, dgrad, wgrad
  double error = 0;
};
/// The layer with the largest relative error of a product. A weight gradient that passes a gradient estimator is not
/// judged. Nothing where all products are exact.
std::optional<WorstLayer> worst_layer(const RecipeInspection& recipe);

}  // namespace nibble
