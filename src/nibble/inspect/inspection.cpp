#include "nibble/inspect/inspection.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "nibble/data/text_reader.h"
#include "nibble/recipe/names.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

struct Pass {
  const StoredModel& model;
  std::uint32_t step;
  Llama::Batch batch;
  Device device;
};

/// The observer sees what a pass on a GPU shows as tensors on the CPU. Those of weights last as long as it does.
OperandObserver on_the_cpu(OperandObserver observer) {
  const auto weights = std::make_shared<std::deque<OwnedTensor>>();
  return [weights, observer = std::move(observer)](const Linear& linear, Operand operand, const Tensor& source) {
    OwnedTensor here = copy_to(source, Device::Cpu);
    observer(linear, operand, here);
    if (operand == Operand::FpropW) weights->push_back(std::move(here));
  };
}

/// Loads the weights and runs one pass that is measured, `observer` looking on; then `read` sees the model.
template <class Read>
double run_pass(const Pass& pass, const Recipe& recipe, const std::function<OperandObserver(Llama&)>& observer,
                const Read& read) {
  Llama model(pass.model.config(), recipe, pass.model.seed(), DType::BF16, pass.device);
  pass.model.load_weights_into(model);
  model.set_observer(pass.device == Device::Cpu ? observer(model) : on_the_cpu(observer(model)));
  model.prepare(pass.step, true);
  const double scale = 1 / static_cast<double>(pass.batch.tokens.numel());
  const BatchLoss loss = model.forward_backward(pass.batch, scale, pass.step, 0, true, true);
  read(model);
  return loss.mean();
}

std::size_t index_of(const Llama& model, const Linear& linear) {
  return static_cast<std::size_t>(&linear - model.linears().data());
}

/// Draws a layer's operands as the layer itself quantises them in the pass.
class HistogramTaker {
 public:
  HistogramTaker(const Pass& pass, const Llama& model, std::vector<std::array<Histogram, 3>>& out)
      : pass_(pass), model_(model), weights_(model.linears().size()), out_(out) {
    out_.resize(model.linears().size());
  }

  void operator()(const Linear& linear, Operand operand, const Tensor& source) {
    const auto place = std::find(kPicturedOperands.begin(), kPicturedOperands.end(), operand);
    if (place == kPicturedOperands.end()) return;
    const ArenaScope scope(arena_);
    const std::size_t layer = index_of(model_, linear);
    const OperandSpec& spec = linear.recipe()[operand];
    QuantizeContext context = signs_of(operand, layer, spec.quant);
    if (operand == Operand::FpropW) weights_[layer] = source;
    if (spec.fold_partner_scales) context.col_fold = weight_scales(linear, layer);
    out_[layer][static_cast<std::size_t>(place - kPicturedOperands.begin())] =
        scaled_histogram(source, spec.quant, context, arena_);
  }

 private:
  QuantizeContext signs_of(Operand operand, std::size_t layer, const QuantSpec& spec) const {
    QuantizeContext context;
    context.signs = sign_stream(pass_.model.seed(), pass_.step, static_cast<std::uint32_t>(layer),
                                operand == Operand::DgradDy ? Product::Dgrad : Product::Fprop, spec.hadamard.signs, 0);
    return context;
  }

  /// One a row of W, as dgrad.w has them.
  Tensor weight_scales(const Linear& linear, std::size_t layer) {
    const bool reused = linear.recipe()[Operand::DgradW].source == OperandSource::Fprop;
    const Operand operand = reused ? Operand::FpropW : Operand::DgradW;
    QuantSpec spec = linear.recipe()[operand].quant;
    spec.rounding = Rounding::NearestEven;  // of the codes, which don't matter here
    const QTensor w = quantize(weights_[layer], spec, signs_of(Operand::FpropW, layer, spec), arena_);
    return w.scales.reshape({w.rows});
  }

  const Pass& pass_;
  const Llama& model_;
  std::vector<Tensor> weights_;
  std::vector<std::array<Histogram, 3>>& out_;
  Arena arena_;
};

std::array<bool, 6> quantised_operands(const LinearRecipe& recipe) {
  std::array<bool, 6> quantised{};
  for (const Operand o : kAllOperands) {
    const Operand from = recipe[o].source == OperandSource::Fprop ? fprop_counterpart(o) : o;
    quantised[static_cast<std::size_t>(o)] = has_scale(recipe[from].quant.element);
  }
  return quantised;
}

double inspect_sources(const Pass& pass, std::vector<LayerSource>& layers) {
  const auto observer = [&](Llama& model) -> OperandObserver {
    layers.resize(model.linears().size());
    return [&layers, &model](const Linear& linear, Operand operand, const Tensor& source) {
      const auto place = std::find(kPicturedOperands.begin(), kPicturedOperands.end(), operand);
      if (place == kPicturedOperands.end()) return;
      LayerSource& layer = layers[index_of(model, linear)];
      layer.layer = linear.name();
      layer.tensors[static_cast<std::size_t>(place - kPicturedOperands.begin())] = tensor_figures(source);
      if (operand == Operand::FpropX) layer.channels = channel_figures(source);
    };
  };
  return run_pass(pass, unquantised_recipe(ElementFormat::BF16), observer, [](const Llama&) {});
}

RecipeInspection inspect_recipe(const Pass& pass, const Recipe& recipe) {
  RecipeInspection out;
  out.recipe = recipe.name;
  const auto observer = [&](Llama& model) -> OperandObserver {
    const auto taker = std::make_shared<HistogramTaker>(pass, model, out.histograms);
    return [taker](const Linear& linear, Operand operand, const Tensor& source) { (*taker)(linear, operand, source); };
  };
  out.loss = run_pass(pass, recipe, observer, [&](Llama& model) {
    out.telemetry = gather_telemetry(model.linears());
    for (const Linear& linear : model.linears()) out.quantised.push_back(quantised_operands(linear.recipe()));
  });
  return out;
}

}  // namespace

std::vector<std::int32_t> inspection_tokens(const std::filesystem::path& text, const Tokenizer& tokenizer,
                                            const LlamaConfig& model, std::int64_t sequences) {
  const auto wanted = static_cast<std::size_t>(sequences * model.seq + 1);
  std::vector<std::int32_t> ids;
  TextReader reader({text.string()}, {});
  for (std::string document; ids.size() < wanted && reader.next(document);) tokenizer.encode_document(document, ids);
  if (ids.size() < wanted) {
    user_error(
        "'{}' is too short: it holds {} tokens, {} sequences of {} need {}; give a longer text or fewer --tokens",
        text.string(), ids.size(), sequences, model.seq, wanted);
  }
  ids.resize(wanted);
  return ids;
}

Inspection inspect_model(const StoredModel& model, const std::vector<Recipe>& recipes,
                         const std::vector<std::int32_t>& ids, Device device) {
  Inspection out;
  out.checkpoint = model.path().string();
  out.model = model.config().name;
  out.step = model.step();
  out.seq = model.config().seq;
  out.sequences = (static_cast<std::int64_t>(ids.size()) - 1) / out.seq;
  require(out.sequences > 0 && out.sequences * out.seq + 1 == static_cast<std::int64_t>(ids.size()),
          "{} ids are not whole sequences of {} and one more", ids.size(), out.seq);

  const OwnedTensor tokens(DType::I32, {out.sequences, out.seq});
  const OwnedTensor targets(DType::I32, {out.sequences, out.seq});
  std::copy(ids.begin(), ids.end() - 1, tokens.view().data<std::int32_t>());
  std::copy(ids.begin() + 1, ids.end(), targets.view().data<std::int32_t>());
  const Pass pass{model, static_cast<std::uint32_t>(model.step()), {tokens, targets}, device};
  out.loss = inspect_sources(pass, out.layers);
  for (const Recipe& recipe : recipes) out.recipes.push_back(inspect_recipe(pass, recipe));
  return out;
}

double relative_error(const ProductQuality& product) { return product.count == 0 ? 0 : 1 / product.rho(); }

std::optional<WorstLayer> worst_layer(const RecipeInspection& recipe) {
  std::optional<WorstLayer> worst;
  for (std::size_t i = 0; i < recipe.telemetry.layers.size(); ++i) {
    const LayerTelemetry& layer = recipe.telemetry.layers[i];
    for (std::size_t p = 0; p < layer.products.size(); ++p) {
      if (p == 2 && layer.estimated_gradient) continue;
      const double error = relative_error(layer.products[p]);
      if (error > (worst ? worst->error : 0)) worst = WorstLayer{i, p, error};
    }
  }
  return worst;
}

}  // namespace nibble
