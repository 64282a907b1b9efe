#include "nibble/cost/step.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "nibble/ops/spmm.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

/// Collects parts by (name, product) in the order of their first appearance.
class Parts {
 public:
  void add(const std::string& name, const std::string& product, const std::string& path, double flops, double bytes,
           double seconds) {
    const auto [it, added] = index_.emplace(name + "/" + product, parts_.size());
    if (added) parts_.push_back({name, product, path, 0, 0, 0});
    StepPart& part = parts_[it->second];
    if (!path.empty() && part.path.find(path) == std::string::npos)
      part.path += (part.path.empty() ? "" : " + ") + path;
    part.flops += flops;
    part.bytes += bytes;
    part.seconds += seconds;
  }
  void append(const Parts& other) {
    for (const StepPart& p : other.parts_) add(p.name, p.product, p.path, p.flops, p.bytes, p.seconds);
  }
  std::vector<StepPart> take() { return std::move(parts_); }

 private:
  std::map<std::string, std::size_t> index_;
  std::vector<StepPart> parts_;
};

/// Of the elementwise work of a pass: RMSNorm moves 6 bytes an element forward and 14 backward, SwiGLU 6 and 10.
constexpr double kElementwiseForward = 1.0 / 3;

void spread(std::vector<double>& blocks, double seconds) {
  for (double& block : blocks) block += seconds / static_cast<double>(blocks.size());
}

/// Parts that no recipe changes, for one pass; `tokens` of it.
class CommonParts {
 public:
  CommonParts(const LlamaConfig& model, const DeviceSpec& device, StepPhases& phases)
      : m_(model), d_(device), phases_(phases) {}

  void add_embedding(Parts& parts, double tokens, double passes) const {
    // Rows of FP32 are read and written; the backward adds into the gradient.
    const auto width = static_cast<double>(m_.width);
    const double seconds = element(parts, "embedding", passes, 2 * width * tokens, (8 + 12) * width * tokens);
    phases_.embedding_forward += seconds * 8 / (8 + 12);
    phases_.embedding_backward += seconds * 12 / (8 + 12);
  }

  void add_pass(Parts& parts, double tokens, std::int64_t seq, double passes) const {
    const auto layers = static_cast<double>(m_.layers);
    const auto width = static_cast<double>(m_.width);
    const auto ffn = static_cast<double>(m_.ffn);
    const auto qkv = static_cast<double>(m_.qkv_width());
    const auto vocab = static_cast<double>(m_.vocab);
    const auto rotated = static_cast<double>((m_.heads + m_.kv_heads) * m_.head_dim());

    // Causal attention: scores and values are two products of seq / 2 by the heads' width, 2 FLOPs each.
    const auto attended = static_cast<double>(m_.attention_width());
    const double forward = 2 * 2 * tokens * static_cast<double>(seq) / 2 * attended * layers;
    const double heads_bytes = 2 * tokens * (qkv + attended) * layers;
    spread(phases_.forward, attention(parts, "attention core, forward", passes, forward, heads_bytes));
    spread(phases_.backward, attention(parts, "attention core, backward", passes, 2.5 * forward, 2 * heads_bytes));

    // RMSNorm: FP32 stream in, BF16 out; backward reads both and dY and adds into the stream's gradient. Rotary
    // embedding in place. SwiGLU in BF16. Two FP32 residual additions. In place on BF16 too: the bias, read again for
    // its gradient, and the norm of heads, with a copy that the backward reads.
    const double norm_bytes = (6 + 14) * width;
    const double bias = m_.qkv_bias ? qkv : 0;
    const double normed = m_.qk_norm ? rotated : 0;
    const double block_bytes =
        2 * norm_bytes + 8 * rotated + (6 + 10) * ffn + 2 * 8 * width + 6 * bias + (6 + 6) * normed;
    const double block_flops = 2 * 12 * width + 12 * rotated + 15 * ffn + 4 * width + 2 * bias + 12 * normed;
    const double elementwise =
        element(parts, "norms and elementwise", passes, tokens * (layers * block_flops + 12 * width),
                tokens * (layers * block_bytes + norm_bytes));
    spread(phases_.forward, kElementwiseForward * elementwise);
    spread(phases_.backward, (1 - kElementwiseForward) * elementwise);

    const LinearShape head{"head", m_.vocab, m_.width};
    const LinearRecipe bf16 = unquantised_recipe(ElementFormat::BF16).base();
    for (const Product product : kAllProducts) {
      const ProductCost cost = product_cost(bf16, head, product, tokens, d_);
      parts.add("head", product_name(product), unit_name(cost.path.unit), passes * cost.flops, passes * cost.bytes,
                passes * cost.seconds);
      phases_.head += passes * cost.seconds;
    }
    // Logits are written in FP32 by the product, read once; their gradient is written in BF16.
    phases_.head += element(parts, "cross-entropy", passes, 6 * vocab * tokens, 6 * vocab * tokens);
  }

  void add_step(Parts& parts, const OptimizerLayout& optimizer) const {
    const auto parameters = static_cast<double>(m_.parameters());
    phases_.optimizer += element(parts, "optimizer", 1, 14 * parameters, optimizer.traffic * parameters);
  }

  /// Returns the seconds of all passes, as attention does.
  double element(Parts& parts, const char* name, double passes, double flops, double bytes) const {
    const double seconds = std::max(flops / d_.rate(Unit::F32), bytes / d_.elementwise_bandwidth());
    parts.add(name, "", "", passes * flops, passes * bytes, passes * seconds);
    return passes * seconds;
  }

 private:
  double attention(Parts& parts, const char* name, double passes, double flops, double bytes) const {
    const double seconds = std::max(flops / d_.attention_rate(), bytes / d_.elementwise_bandwidth());
    parts.add(name, "", unit_name(d_.is_cpu ? Unit::F32 : Unit::Bf16), passes * flops, passes * bytes,
              passes * seconds);
    return passes * seconds;
  }

  const LlamaConfig& m_;
  const DeviceSpec& d_;
  StepPhases& phases_;
};

/// Where the seconds of a linear layer go.
struct LinearPhases {
  double& weights;
  double& forward;
  double& backward;
  double& of(Product product) const { return product == Product::Fprop ? forward : backward; }
};

/// Seconds of a pass over memory, as elementwise kernels make it.
double pass_over(Parts& parts, const char* name, double bytes, const DeviceSpec& device) {
  if (bytes == 0) return 0;
  const double seconds = bytes / device.elementwise_bandwidth();
  parts.add(name, "", "", 0, bytes, seconds);
  return seconds;
}

struct ResidualCost {
  const char* unit = "";
  double flops = 0;
  double bytes = 0;
  double seconds = 0;
};

/// The residual's product with W or dY (ops/spmm.h): its entries gather rows of BF16; on a GPU, where they are dense,
/// all places are multiplied as a BF16 matrix, by wgrad with a dY that is F32 as two.
ResidualCost residual_cost(const LinearRecipe& recipe, const LinearShape& shape, Product product, double tokens,
                           const DeviceSpec& device) {
  const double density = residual_density(recipe);
  if (density == 0 || (product == Product::Wgrad && !recipe.residual_in_wgrad)) return {};
  const double places = tokens * static_cast<double>(shape.inputs);
  const auto outputs = static_cast<double>(shape.outputs);
  if (device.is_cpu || density < kDenseResidual) {
    const double each = 2 * density * places * outputs;  // operations, and bytes of rows of W^T or dY
    return {"gather", each, each, std::max(each / device.rate(Unit::F32), each / device.gather_bandwidth)};
  }
  const bool split = product == Product::Wgrad && shape.adds_to_stream;
  const double flops = (split ? 2 : 1) * 2 * places * outputs;
  const double bytes = 2 * places + (split ? (4 + 2 * 2) * tokens * outputs : 0);
  const Unit unit = device.high_precision();
  return {unit_name(unit), flops, bytes, flops / device.rate(unit) + bytes / device.elementwise_bandwidth()};
}

/// One linear layer during one stage, `weight` of the run: its products to `parts`, all else to `overheads`.
void add_linear(Parts& parts, Parts& overheads, LinearPhases phases, const LinearRecipe& recipe,
                const LinearShape& shape, const DeviceSpec& device, const Batch& batch,
                const CostAssumptions& assumptions, double weight) {
  const double tokens = batch.micro_tokens();
  const double passes = batch.passes() * weight;
  for (const Product product : kAllProducts) {
    const ProductCost cost = product_cost(recipe, shape, product, tokens, device);
    parts.add(shape.name, product_name(product), unit_name(cost.path.unit), passes * cost.flops, passes * cost.bytes,
              passes * cost.seconds);
    double& phase = phases.of(product);
    phase += passes * cost.seconds;
    phase += pass_over(overheads, "MXFP4 to FP8", passes * rewritten_bytes(recipe, shape, product, tokens, cost.path),
                       device);
  }
  const RotatedBytes rotated = rotated_bytes(recipe, shape, tokens);
  phases.backward += pass_over(overheads, "rotate back", passes * (rotated.dx + rotated.dw), device);
  const auto traffic = quantise_traffic(recipe, shape, tokens, assumptions);
  for (const Operand operand : kAllOperands) {
    const OperandTraffic& own = traffic[static_cast<std::size_t>(operand)];
    if (own.bytes() == 0) continue;
    const bool is_weight = operand == Operand::FpropW || operand == Operand::DgradW;
    const bool is_x = operand == Operand::FpropX || operand == Operand::WgradX;
    const double times = is_weight ? weight : passes;
    overheads.add("quantise",
                  is_weight ? "W"
                  : is_x    ? "X"
                            : "dY",
                  "", times * own.operations, times * own.bytes(), times * quantise_seconds(own, device));
    double& phase = is_weight ? phases.weights : operand == Operand::FpropX ? phases.forward : phases.backward;
    phase += times * quantise_seconds(own, device);
  }
  const OperandTraffic update = update_traffic(recipe, shape);
  if (update.bytes() > 0) {
    overheads.add("weight gradient and average", "", "", weight * update.operations, weight * update.bytes(),
                  weight * quantise_seconds(update, device));
    const bool dge = recipe.weight_gradient.estimator == WeightGradient::Estimator::Dge;
    (dge ? phases.backward : phases.weights) += weight * quantise_seconds(update, device);
  }
  for (const Product product : {Product::Fprop, Product::Wgrad}) {
    const ResidualCost residual = residual_cost(recipe, shape, product, tokens, device);
    if (residual.seconds == 0) continue;
    overheads.add("sparse residual", product_name(product), residual.unit, passes * residual.flops,
                  passes * residual.bytes, passes * residual.seconds);
    phases.of(product) += passes * residual.seconds;
  }
}

}  // namespace

double StepPhases::sum() const {
  const double blocks =
      std::accumulate(forward.begin(), forward.end(), std::accumulate(backward.begin(), backward.end(), 0.0));
  return weights + embedding_forward + blocks + head + embedding_backward + optimizer;
}

Batch default_batch(std::int64_t seq) {
  const std::int64_t micro = std::max<std::int64_t>(1, (1 << 14) / seq);
  return {micro * std::max<std::int64_t>(1, (1 << 19) / (micro * seq)), micro, seq};
}

OptimizerLayout optimizer_layout(const std::string& name, const std::string& gradients) {
  // AdamW reads p, g, m, v, writes p, m, v, and reads g once more for its norm. FP8-LM the same, and recomputes the
  // moments in a second pass that stores them under fresh scales; ours passes through FP32 values that nobody keeps.
  if (gradients != "f32" && gradients != "bf16") user_error("--gradients is '{}', must be f32 or bf16", gradients);
  const bool narrow = gradients == "bf16";
  // Widened before the norm and before the update.
  const double widening = narrow ? 2 * (2 + 4) : 0;
  if (name == "adamw") return {"adamw", 4, narrow ? 2.0 : 4.0, 4, 4, 32 + widening, 4, 4};
  if (name == "adamw-fp8") return {"adamw-fp8", 2, narrow ? 2.0 : 4.0, 1, 2, 31 + widening, 4 + 2, 4};
  if (name == "fp8-lm") return {"fp8-lm", 2, 1, 1, 2, 18, 0, 0};
  user_error("--optimizer is '{}', must be adamw, adamw-fp8 or fp8-lm", name);
}

ProductCost product_cost(const LinearRecipe& recipe, const LinearShape& shape, Product product, double tokens,
                         const DeviceSpec& device) {
  ProductCost cost;
  cost.path = product_path(recipe, product, device);
  const double elements[] = {tokens * static_cast<double>(shape.inputs), tokens * static_cast<double>(shape.outputs)};
  const auto [left, right] = operands_of(product);
  const auto element_bytes = [&](Operand operand) { return element_bits(operand_form(recipe, operand).element) / 8.0; };
  // X, W, dY by product; the result is BF16, and dW is read and written in FP32.
  switch (product) {
    case Product::Fprop:
      cost.bytes = element_bytes(left) * elements[0] + element_bytes(right) * shape.weights() + 2 * elements[1];
      break;
    case Product::Dgrad:
      cost.bytes = element_bytes(left) * elements[1] + element_bytes(right) * shape.weights() + 2 * elements[0];
      break;
    case Product::Wgrad:
      cost.bytes = element_bytes(left) * elements[1] + element_bytes(right) * elements[0] + 8 * shape.weights();
      break;
  }
  const double samples = product == Product::Wgrad ? recipe[Operand::WgradDy].samples : 1;
  cost.flops = samples * 2 * tokens * shape.weights();
  cost.bytes *= samples;
  cost.seconds = cost.flops / (device.rate(cost.path.unit) * cost.path.share);
  if (product != Product::Dgrad) {
    const double extra = 2 * tokens * outlier_columns(recipe, shape.inputs) * static_cast<double>(shape.outputs);
    const Unit unit = device.has(Unit::Fp8) ? Unit::Fp8 : device.high_precision();
    cost.flops += extra;
    cost.seconds += extra / device.rate(unit);
  }
  cost.seconds = std::max(cost.seconds, cost.bytes / device.elementwise_bandwidth());
  return cost;
}

StepCost step_cost(const LlamaConfig& model, const Recipe& recipe, const DeviceSpec& device, const Batch& batch,
                   const OptimizerLayout& optimizer, const CostAssumptions& assumptions) {
  Parts parts;
  Parts overheads;
  StepPhases phases;
  phases.forward.resize(static_cast<std::size_t>(model.layers));
  phases.backward.resize(static_cast<std::size_t>(model.layers));
  const CommonParts common(model, device, phases);
  common.add_embedding(parts, batch.micro_tokens(), batch.passes());
  for (const StageShare& stage : stage_shares(recipe, assumptions.monitored_from)) {
    for (std::int64_t block = 0; block < model.layers; ++block) {
      for (const LinearShape& shape : block_linears(model)) {
        const std::string name = fmt::format("layers.{}.{}", block, shape.name);
        const auto b = static_cast<std::size_t>(block);
        add_linear(parts, overheads, {phases.weights, phases.forward[b], phases.backward[b]},
                   recipe.resolve(name, block, model.layers, stage.stage), shape, device, batch, assumptions,
                   stage.share);
      }
    }
  }
  parts.append(overheads);
  common.add_pass(parts, batch.micro_tokens(), batch.seq, batch.passes());
  common.add_step(parts, optimizer);
  StepCost cost;
  cost.parts = parts.take();
  cost.phases = phases;
  cost.tokens = batch.tokens();
  LlamaConfig at_seq = model;
  at_seq.seq = batch.seq;
  cost.model_flops = at_seq.flops_per_token() * cost.tokens;
  for (const StepPart& part : cost.parts) cost.seconds += part.seconds;
  if (device.step_achieved < 1) {
    const double idle = cost.seconds / device.step_achieved - cost.seconds;
    cost.parts.push_back({"launches and gaps", "", "", 0, 0, idle});
    cost.seconds += idle;
  }
  return cost;
}

}  // namespace nibble
