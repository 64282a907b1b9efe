#include "nibble/model/llama.h"

#include <algorithm>
#include <map>

#include "nibble/model/initialise.h"
#include "nibble/ops/attention.h"
#include "nibble/ops/bias.h"
#include "nibble/ops/cross_entropy.h"
#include "nibble/ops/embedding.h"
#include "nibble/ops/fused_quantize.h"
#include "nibble/ops/head_norm.h"
#include "nibble/ops/reduce.h"
#include "nibble/ops/rmsnorm.h"
#include "nibble/ops/rope.h"
#include "nibble/ops/swiglu.h"
#include "nibble/recipe/linear_contract.h"
#include "nibble/tensor/device.h"

namespace nibble {

struct Llama::Block {
  std::size_t attention_norm, qkv, output, ffn_norm, gate_up, down;  // indices into parameters_
  std::size_t qkv_bias, q_norm, k_norm;                              // where the model has them
};

struct Llama::BlockSaved {
  Tensor x;         // residual stream at the block's input, F32 [T, d]
  Tensor x_middle;  // after attention
  Tensor attention_rstd, ffn_rstd;
  Tensor heads, head_rstd;  // query and key heads before their norm, where they have one
  Tensor qkv;               // after rotation
  Tensor attended, lse;
  Tensor gate_up;
  Linear::Saved qkv_in, output_in, gate_up_in, down_in;
};

namespace {

enum LinearOfBlock : std::size_t { kQkv, kOutput, kGateUp, kDown };

/// X lies in memory that is about to be used for something else.
void forget_input(Linear::Saved& saved) {
  if (saved.x.codes.raw() == saved.source.raw()) saved.x.codes = {};  // X itself was the operand
  saved.source = {};
}

void restore_input(Linear::Saved& saved, const Tensor& x) {
  if (!saved.x.codes.defined()) saved.x.codes = x;
  saved.source = x;
}

BatchLoss sum_of(const Tensor& losses, const Tensor& targets) {
  BatchLoss loss;
  const float* each = losses.data<float>();
  for (std::int64_t i = 0; i < losses.numel(); ++i) loss.sum += static_cast<double>(each[i]);
  loss.tokens = std::count_if(targets.data<std::int32_t>(), targets.data<std::int32_t>() + targets.numel(),
                              [](std::int32_t target) { return target >= 0; });
  return loss;
}

}  // namespace

Llama::Llama(const LlamaConfig& config, const Recipe& recipe, std::uint64_t seed, DType activations, Device device,
             ParameterStorage storage)
    : config_(config),
      recipe_(recipe),
      seed_(seed),
      activations_(activations),
      device_(device),
      storage_(storage),
      tokens_sent_(device),
      targets_sent_(device),
      losses_read_(device),
      memory_(config, storage, device),
      parameters_(memory_.parameters()),
      arena_(device),
      input_arena_(device),
      weight_arena_(device),
      windows_{Arena(device), Arena(device)} {
  recipe_.high_precision =
      unquantised_recipe(activations == DType::F32 ? ElementFormat::F32 : ElementFormat::BF16).base();
  find_parameters();
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    for (const std::size_t weight : {blocks_[b].qkv, blocks_[b].output, blocks_[b].gate_up, blocks_[b].down}) {
      linears_.emplace_back(parameters_[weight].name, static_cast<std::uint32_t>(linears_.size()), recipe_,
                            static_cast<std::int64_t>(b), config_.layers);
      linear_parameters_.push_back(weight);
    }
  }
  initialise_parameters(config_, parameters_, seed);
  rope_cos_ = OwnedTensor(DType::F32, {config_.seq, config_.head_dim() / 2}, device_);
  rope_sin_ = OwnedTensor(DType::F32, {config_.seq, config_.head_dim() / 2}, device_);
  rope_tables(static_cast<float>(config_.rope_theta), config_.rope_scaling, rope_cos_, rope_sin_);
}

Llama::~Llama() = default;

void Llama::find_parameters() {
  std::map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < parameters_.size(); ++i) index[parameters_[i].name] = i;
  embedding_ = index.at("embedding");
  final_norm_ = index.at("final_norm");
  head_ = config_.tied_head ? embedding_ : index.at("head");
  for (std::int64_t b = 0; b < config_.layers; ++b) {
    const auto at = [&](const char* name) { return index.at(fmt::format("layers.{}.{}", b, name)); };
    Block block{};
    block.attention_norm = at("attention_norm");
    block.qkv = at("attention.qkv");
    if (config_.qkv_bias) block.qkv_bias = at("attention.qkv_bias");
    if (config_.qk_norm) block.q_norm = at("attention.q_norm");
    if (config_.qk_norm) block.k_norm = at("attention.k_norm");
    block.output = at("attention.output");
    block.ffn_norm = at("ffn_norm");
    block.gate_up = at("mlp.gate_up");
    block.down = at("mlp.down");
    blocks_.push_back(block);
  }
}

void Llama::reserve(const MemoryPlan& plan) {
  arena_.reserve(static_cast<std::size_t>(plan.activations));
  input_arena_.reserve(static_cast<std::size_t>(plan.inputs));
  weight_arena_.reserve(static_cast<std::size_t>(plan.working_copies));
  for (std::size_t i = 0; i < windows_.size(); ++i) windows_[i].reserve(static_cast<std::size_t>(plan.windows[i]));
}

void Llama::set_stage(std::size_t stage) {
  for (Linear& linear : linears_) linear.set_stage(stage);
}

void Llama::prepare(std::uint32_t step, bool measure_quality) {
  weight_arena_.rewind({});
  step_ = step;
  passes_ = 0;
  gathered_ = {};
  measured_ = measure_quality;
  if (storage_.shares(3)) return gather_step();
  embedding_rows_ = parameters_[embedding_].value;
  for (std::size_t i = 0; i < linears_.size(); ++i) {
    const ArenaScope scope(arena_);
    linears_[i].prepare(weight(i, arena_), seed_, step, weight_arena_, arena_, measure_quality);
  }
  const Tensor& head = parameters_[head_].value;
  head_weight_ = head;
  if (activations_ == DType::BF16) {
    head_weight_ = weight_arena_.allocate(DType::BF16, {config_.vocab, config_.width});
    convert(head, head_weight_);
  }
}

Tensor Llama::weight(std::size_t index, Arena& arena) {
  return held_values_of(parameters_[linear_parameters_[index]], arena);
}

Tensor Llama::weight_if(bool read, std::size_t index, Arena& arena) {
  const Parameter& p = parameters_[linear_parameters_[index]];
  if (read) return held_values_of(p, arena);
  return p.value_piece.defined() ? Tensor(nullptr, DType::F32, p.own_values().shape(), device_) : p.value;
}

Linear::Saved Llama::linear_forward(std::size_t index, const Tensor& x, const Tensor& y, const Tensor& addend,
                                    const PassContext& pass) {
  const ArenaScope scope(input_arena_);
  Linear& linear = linears_[index];
  const bool reads_weight = !pass.again && (pass.measure_quality || pass.observer != nullptr);
  if (lends_weights() && reads_weight) linear.lend_weight(weight(index, input_arena_));
  return linear.forward(x, y, addend, pass);
}

void Llama::linear_backward(std::size_t index, const Tensor& dy, const Linear::Saved& saved, const Tensor& dx,
                            const PassContext& pass, const PairMagnitudes& known) {
  const ArenaScope scope(arena_);
  Linear& linear = linears_[index];
  const LinearRecipe& recipe = linear.recipe();
  const bool reads_weight = pass.measure_quality ||
                            recipe.weight_gradient.estimator == WeightGradient::Estimator::Dge ||
                            recipe[Operand::DgradW].quant.hadamard.signs == Hadamard::Signs::Call;
  if (lends_weights() && reads_weight) linear.lend_weight(weight(index, arena_));
  const Tensor& grad = parameters_[linear_parameters_[index]].grad;
  if (grad.dtype() == DType::F32) return linear.backward(dy, saved, dx, grad, pass, known);
  const Tensor sum = arena_.allocate(DType::F32, {grad.rows(), grad.cols()});
  if (!pass.overwrite_gradients) convert(grad, sum);
  linear.backward(dy, saved, dx, sum, pass, known);
  convert(sum, grad);
}

double Llama::squares_of_gradients() {
  double sum = sum_of_squares(flat_grads());
  if (storage_.gradients == DType::F32) return sum;
  for (const std::size_t parameter : linear_parameters_) {
    const ArenaScope scope(arena_);
    const Tensor& grad = parameters_[parameter].grad;
    const Tensor wide = arena_.allocate(DType::F32, {grad.numel()});
    convert(grad, wide);
    sum += sum_of_squares(wide);
  }
  return sum;
}

std::vector<Tensor> Llama::observed() const {
  std::vector<Tensor> all;
  for (const Linear& linear : linears_) {
    if (const Tensor counts = linear.observed(); counts.defined()) all.push_back(counts);
  }
  return all;
}

Tensor Llama::to_device(const Tensor& batch_part, Staging& staging) {
  const Tensor flat = batch_part.reshape({batch_part.numel()});
  if (device_ == Device::Cpu) return flat;
  const Tensor there = arena_.allocate(flat.dtype(), {flat.numel()});
  staging.send(flat, there);
  return there;
}

Tensor Llama::embed(const Tensor& tokens) {
  const Tensor x = arena_.allocate(DType::F32, {tokens.numel(), config_.width});
  timed(profile_, "embedding", embedding_forward, tokens, embedding_rows_, x);
  return x;
}

void Llama::attention(const Layout& layout, BlockSaved& saved) {
  const Tensor cos = rope_cos_.view().row_range(0, layout.seq);
  const Tensor sin = rope_sin_.view().row_range(0, layout.seq);
  const std::int64_t places = layout.sequences * layout.seq;
  const AttentionShape shape{layout.sequences, layout.seq, config_.heads, config_.kv_heads, config_.head_dim()};
  const bool packed = layout.at.defined();
  const Tensor qkv = packed ? gather(saved.qkv, layout.at) : saved.qkv;
  timed(profile_, "rope", rope_forward, qkv, config_.heads, config_.kv_heads, cos, sin);
  const Tensor attended = arena_.allocate(activations_, {places, config_.attention_width()});
  saved.lse = arena_.allocate(DType::F32, {layout.sequences * config_.heads, layout.seq});
  timed(profile_, "attention fwd", attention_forward, shape, qkv, attended, saved.lse, arena_);
  saved.attended = packed ? gather(attended, layout.place) : attended;
}

void Llama::block_forward(std::size_t index, const Tensor& x, const Tensor& out, const Layout& layout,
                          const PassContext& pass, bool keep_inputs, BlockSaved& saved) {
  const Block& block = blocks_[index];
  const std::size_t first = index * kLinearsPerBlock;
  const std::int64_t tokens = x.rows();
  const std::int64_t d = config_.width;
  const auto eps = static_cast<float>(config_.norm_eps);
  saved.x = x;
  // The input [T, width] of a linear layer, which goes on to `y`: `compute` writes it, `quantized` makes its codes
  // alone.
  const auto product = [&](LinearOfBlock which, std::int64_t width, const auto& compute,
                           const Linear::QuantizedInput& quantized, const Tensor& y, const Tensor& addend) {
    const ArenaScope scope(input_arena_);
    Linear& linear = linears_[first + which];
    if (activations_ == DType::BF16 && linear.reads_codes_alone(pass) &&
        fuses_quantize(linear.recipe()[Operand::FpropX].quant, width, device_)) {
      return linear.forward(tokens, width, quantized, y, addend, pass);
    }
    const bool kept = keep_inputs && wgrad_reads_input(linear.recipe());
    const Tensor input = (kept ? arena_ : input_arena_).allocate(activations_, {tokens, width});
    compute(input);
    Linear::Saved result = linear_forward(first + which, input, y, addend, pass);
    if (!kept) forget_input(result);
    return result;
  };

  const auto norm_product = [&](LinearOfBlock which, const Tensor& from, std::size_t norm, const Tensor& rstd,
                                const Tensor& y) {
    const Tensor& gain = parameters_[norm].value;
    const auto normed = [&](const Tensor& to) {
      timed(profile_, "rmsnorm", rmsnorm_forward, from, gain, eps, to, rstd);
    };
    const auto quantized = [&](const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
      return timed(profile_, "rmsnorm quantise", rmsnorm_quantize, from, gain, eps, rstd, spec, context, arena,
                   input_arena_);
    };
    return product(which, d, normed, quantized, y, {});
  };

  // x_middle = x + attention(norm(x))
  saved.attention_rstd = arena_.allocate(DType::F32, {tokens});
  saved.qkv = arena_.allocate(activations_, {tokens, config_.qkv_width()});
  saved.qkv_in = norm_product(kQkv, x, block.attention_norm, saved.attention_rstd, saved.qkv);
  if (config_.qkv_bias) timed(profile_, "bias", bias_forward, saved.qkv, parameters_[block.qkv_bias].value);
  if (config_.qk_norm) {
    saved.heads = arena_.allocate(activations_, {tokens, (config_.heads + config_.kv_heads) * config_.head_dim()});
    saved.head_rstd = arena_.allocate(DType::F32, {tokens, config_.heads + config_.kv_heads});
    const HeadGains gains{parameters_[block.q_norm].value, parameters_[block.k_norm].value};
    timed(profile_, "head norm", head_norm_forward, saved.qkv, config_.heads, config_.kv_heads, gains, eps, saved.heads,
          saved.head_rstd);
  }
  attention(layout, saved);
  saved.x_middle = arena_.allocate(DType::F32, {tokens, d});
  saved.output_in = linear_forward(first + kOutput, saved.attended, saved.x_middle, x, pass);

  // out = x_middle + mlp(norm(x_middle))
  saved.ffn_rstd = arena_.allocate(DType::F32, {tokens});
  saved.gate_up = arena_.allocate(activations_, {tokens, 2 * config_.ffn});
  saved.gate_up_in = norm_product(kGateUp, saved.x_middle, block.ffn_norm, saved.ffn_rstd, saved.gate_up);
  const auto swiglu = [&](const Tensor& hidden) { timed(profile_, "swiglu", swiglu_forward, saved.gate_up, hidden); };
  const auto quantized = [&](const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
    return timed(profile_, "swiglu quantise", swiglu_quantize, saved.gate_up, spec, context, arena, input_arena_);
  };
  saved.down_in = product(kDown, config_.ffn, swiglu, quantized, out, out.defined() ? saved.x_middle : Tensor());
}

void Llama::block_backward(std::size_t index, const Tensor& dx, BlockSaved& saved, std::int64_t sequences,
                           std::int64_t seq, const PassContext& pass, const PairMagnitudes& known,
                           const PairMagnitudes& raise) {
  const ArenaScope scope(arena_);
  const Block& block = blocks_[index];
  const std::size_t first = index * kLinearsPerBlock;
  const std::int64_t tokens = sequences * seq;
  const std::int64_t d = config_.width;
  const auto eps = static_cast<float>(config_.norm_eps);
  const auto missing = [&](LinearOfBlock which, const Linear::Saved& in) {
    return !in.source.defined() && linears_[first + which].backward_reads_input(pass);
  };

  const Tensor d_hidden = arena_.allocate(activations_, {tokens, config_.ffn});
  {
    const ArenaScope input(arena_);
    if (missing(kDown, saved.down_in)) {
      restore_input(saved.down_in, arena_.allocate(activations_, {tokens, config_.ffn}));
      timed(profile_, "swiglu", swiglu_forward, saved.gate_up, saved.down_in.source);
    }
    linear_backward(first + kDown, dx, saved.down_in, d_hidden, pass, known);
  }
  const auto wanted_by = [&](LinearOfBlock which, const Tensor& dy, const Linear::Saved& in) {
    return linears_[first + which].wanted_magnitudes(dy, in, pass, arena_);
  };
  const PairMagnitudes of_gate_up = wanted_by(kGateUp, saved.gate_up, saved.gate_up_in);
  timed(profile_, "swiglu", swiglu_backward, d_hidden, saved.gate_up, saved.gate_up,
        of_gate_up);  // in place: gate_up becomes its own gradient
  const Tensor d_normed = arena_.allocate(activations_, {tokens, d});
  {
    const ArenaScope input(arena_);
    if (missing(kGateUp, saved.gate_up_in)) {
      restore_input(saved.gate_up_in, arena_.allocate(activations_, {tokens, d}));
      timed(profile_, "rmsnorm", rmsnorm_forward, saved.x_middle, parameters_[block.ffn_norm].value, eps,
            saved.gate_up_in.source, saved.ffn_rstd);
    }
    linear_backward(first + kGateUp, saved.gate_up, saved.gate_up_in, d_normed, pass, of_gate_up);
  }
  const PairMagnitudes of_middle = wanted_by(kOutput, dx, saved.output_in);
  timed(profile_, "rmsnorm", rmsnorm_backward, d_normed, saved.x_middle, parameters_[block.ffn_norm].value,
        saved.ffn_rstd, dx, parameters_[block.ffn_norm].grad, arena_, of_middle);

  const Tensor d_attended = arena_.allocate(activations_, {tokens, config_.attention_width()});
  linear_backward(first + kOutput, dx, saved.output_in, d_attended, pass, of_middle);
  const AttentionShape shape{sequences, seq, config_.heads, config_.kv_heads, config_.head_dim()};
  const Tensor dqkv = arena_.allocate(activations_, {tokens, config_.qkv_width()});
  timed(profile_, "attention bwd", attention_backward, shape, saved.qkv, saved.attended, saved.lse, d_attended, dqkv,
        arena_);
  const PairMagnitudes of_qkv =  // a norm of heads changes dqkv once more
      config_.qk_norm ? PairMagnitudes() : wanted_by(kQkv, dqkv, saved.qkv_in);
  timed(profile_, "rope", rope_backward, dqkv, config_.heads, config_.kv_heads, rope_cos_.view().row_range(0, seq),
        rope_sin_.view().row_range(0, seq), of_qkv);
  if (config_.qk_norm) {
    const Parameter& q_norm = parameters_[block.q_norm];
    const Parameter& k_norm = parameters_[block.k_norm];
    timed(profile_, "head norm", head_norm_backward, dqkv, config_.heads, config_.kv_heads,
          HeadGains{q_norm.value, k_norm.value}, saved.heads, saved.head_rstd, HeadGains{q_norm.grad, k_norm.grad},
          arena_);
  }
  if (config_.qkv_bias) timed(profile_, "bias", bias_backward, dqkv, parameters_[block.qkv_bias].grad, arena_);
  if (missing(kQkv, saved.qkv_in)) {
    restore_input(saved.qkv_in, arena_.allocate(activations_, {tokens, d}));
    timed(profile_, "rmsnorm", rmsnorm_forward, saved.x, parameters_[block.attention_norm].value, eps,
          saved.qkv_in.source, saved.attention_rstd);
  }
  linear_backward(first + kQkv, dqkv, saved.qkv_in, d_normed, pass, of_qkv);
  timed(profile_, "rmsnorm", rmsnorm_backward, d_normed, saved.x, parameters_[block.attention_norm].value,
        saved.attention_rstd, dx, parameters_[block.attention_norm].grad, arena_, raise);
}

void Llama::head(const Tensor& x, const Tensor& targets, double loss_scale, const Tensor& dx, bool overwrite_gradients,
                 const Tensor& losses, const PairMagnitudes& raise) {
  const ArenaScope scope(arena_);
  const std::int64_t tokens = x.rows();
  const bool backward = dx.defined();
  const Tensor normed = arena_.allocate(activations_, {tokens, config_.width});
  const Tensor rstd = arena_.allocate(DType::F32, {tokens});
  timed(profile_, "rmsnorm", rmsnorm_forward, x, parameters_[final_norm_].value, static_cast<float>(config_.norm_eps),
        normed, rstd);

  const std::int64_t chunk = std::min(head_rows(device_), tokens);
  const Tensor logits_buffer = arena_.allocate(DType::F32, {chunk, config_.vocab});
  const Tensor dlogits_buffer =
      backward && activations_ == DType::BF16 ? arena_.allocate(DType::BF16, {chunk, config_.vocab}) : logits_buffer;
  const Tensor d_normed = backward ? arena_.allocate(activations_, {tokens, config_.width}) : Tensor();
  const QTensor weight = QTensor::view(head_weight_);
  for (std::int64_t begin = 0; begin < tokens; begin += chunk) {
    const std::int64_t end = std::min(tokens, begin + chunk);
    const QTensor input = QTensor::view(normed.row_range(begin, end));
    const Tensor logits = logits_buffer.row_range(0, end - begin);
    const Tensor chunk_targets = targets.elements(begin, end);
    const Tensor chunk_losses = losses.elements(begin, end);
    timed(profile_, "gemm head", gemm, GemmOperand{input}, GemmOperand{weight}, logits, Accumulate::Overwrite, arena_);
    if (!backward) {
      cross_entropy_forward(logits, chunk_targets, chunk_losses);
      continue;
    }
    const Tensor dlogits = dlogits_buffer.row_range(0, end - begin);
    timed(profile_, "cross-entropy", cross_entropy_forward_backward, logits, chunk_targets,
          static_cast<float>(loss_scale), chunk_losses, dlogits);
    const QTensor gradient = QTensor::view(dlogits);
    timed(profile_, "gemm head", gemm, GemmOperand{gradient}, GemmOperand{weight, true}, d_normed.row_range(begin, end),
          Accumulate::Overwrite, arena_);
    // A tied head shares its gradient with the embedding, whose part is added last in the backward.
    timed(profile_, "gemm head", gemm, GemmOperand{gradient, true}, GemmOperand{input, true}, parameters_[head_].grad,
          overwrite_gradients && begin == 0 ? Accumulate::Overwrite : Accumulate::Add, arena_);
  }
  if (backward) {
    timed(profile_, "rmsnorm", rmsnorm_backward, d_normed, x, parameters_[final_norm_].value, rstd, dx,
          parameters_[final_norm_].grad, arena_, raise);
  }
}

void Llama::begin_gradients(std::size_t bucket) {
  const ParameterRange& range = memory_.buckets()[bucket];
  for (std::size_t i = range.first; i < range.last; ++i) {
    if (!parameters_[i].is_matrix() || (i == embedding_ && !config_.tied_head)) fill_zero(parameters_[i].grad);
  }
}

BatchLoss Llama::forward_backward(const Batch& batch, double loss_scale, std::uint32_t step, std::int64_t first_token,
                                  bool overwrite_gradients, bool measure_quality, std::int64_t tokens_per_step,
                                  const GradientsReady& ready) {
  const ArenaScope scope(arena_);
  const std::int64_t sequences = batch.tokens.rows();
  const std::int64_t seq = batch.tokens.cols();
  require(seq <= config_.seq, "a sequence of {} tokens; the model takes up to {}", seq, config_.seq);
  if (tokens_per_step == 0) tokens_per_step = sequences * seq;
  require(first_token + sequences * seq <= tokens_per_step, "tokens {} to {} of a step of {}", first_token,
          first_token + sequences * seq, tokens_per_step);
  const PassContext pass{.arena = arena_,
                         .seed = seed_,
                         .step = step,
                         .first_token = first_token,
                         .overwrite_gradients = overwrite_gradients,
                         .measure_quality = measure_quality,
                         .profile = profile_,
                         .observer = observer_ ? &observer_ : nullptr,
                         .tokens_per_step = tokens_per_step};
  require(overwrite_gradients || !storage_.shares(2), "gradients that take turns are not added to");
  std::size_t bucket = 0;
  const auto begin = [&] {
    if (overwrite_gradients) begin_gradients(bucket);
  };
  const auto complete = [&] {
    if (ready) ready(bucket);
    ++bucket;
  };
  const bool as_graphs = graphs_ != nullptr && !measure_quality && !observer_ && profile_ == nullptr;
  std::size_t pieces = 0;
  // The first micro-batch overwrites gradients, later ones add to them: other launches, so pieces of their own.
  const auto piece = [&](const auto& work) {
    const std::size_t number = 2 * pieces++ + (overwrite_gradients ? 0 : 1);
    as_graphs ? graphs_->run(number, work) : work();
  };
  std::vector<BlockSaved> saved(blocks_.size());
  std::vector<Arena::Mark> marks(blocks_.size());  // what a block saved lies between its mark and the next one
  const Layout layout{sequences, seq, {}, {}};
  const std::size_t kept_from = recompute_ == Recompute::Block ? blocks_.size() - 1 : 0;
  const bool keep_inputs = recompute_ != Recompute::BlockParts;
  const Tensor tokens = to_device(batch.tokens, tokens_sent_);
  const Tensor targets = to_device(batch.targets, targets_sent_);
  const Tensor losses = arena_.allocate(DType::F32, {sequences * seq});
  Tensor x = embed(tokens);
  const Tensor dx = arena_.allocate(DType::F32, {sequences * seq, config_.width});
  fill_zero(dx);
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    const Tensor out = arena_.allocate(DType::F32, {sequences * seq, config_.width});
    marks[b] = arena_.mark();
    enter_forward(b, true);
    piece([&] { block_forward(b, x, out, layout, pass, keep_inputs && b >= kept_from, saved[b]); });
    if (b < kept_from) arena_.rewind(marks[b]);
    x = out;
  }
  // Of dx as it comes to the last of so many blocks, which ends with the down product. What is gathered with that
  // block, or computed again, is not there yet.
  const ArenaScope magnitudes_scope(input_arena_);
  const auto wanted_below = [&](std::size_t blocks) -> PairMagnitudes {
    if (blocks <= kept_from || storage_.gathers_in_passes()) return {};
    const Linear& down = linears_[(blocks - 1) * kLinearsPerBlock + kDown];
    return down.wanted_magnitudes(dx, saved[blocks - 1].down_in, pass, input_arena_);
  };
  PairMagnitudes of_dx;
  begin();
  piece([&] {
    of_dx = wanted_below(blocks_.size());
    head(x, targets, loss_scale, dx, overwrite_gradients, losses, of_dx);
  });
  complete();
  losses_read_.begin_read(losses);
  PassContext again = pass;
  again.again = true;
  for (std::size_t b = blocks_.size(); b-- > 0;) {
    enter_backward(b);
    begin();
    piece([&] {
      if (b < kept_from) block_forward(b, saved[b].x, {}, layout, again, keep_inputs, saved[b]);
      const PairMagnitudes below = wanted_below(b);
      block_backward(b, dx, saved[b], sequences, seq, pass, of_dx, below);
      of_dx = below;
    });
    arena_.rewind(marks[b]);
    complete();
  }
  begin();
  timed(profile_, "embedding", embedding_backward, tokens, dx, parameters_[embedding_].grad, arena_);
  complete();
  ++passes_;
  return sum_of(losses_read_.read(), batch.targets);
}

std::int64_t Llama::after_update(std::int64_t step, std::int64_t steps) {
  std::int64_t resets = 0;
  for (std::size_t i = 0; i < linears_.size(); ++i) {
    const ArenaScope scope(arena_);
    const LinearRecipe& recipe = linears_[i].recipe();
    const Parameter& p = parameters_[linear_parameters_[i]];
    const bool reads_weight = measured_ || recipe.weight_average.enabled() || recipe.oscillation_reset.enabled();
    const Tensor w = weight_if(reads_weight, i, arena_);
    if (storage_.shares(3)) {
      const std::int64_t own = linears_[i].after_update(weight_rows(i, w), *storage_.communicator, step, steps, arena_);
      resets += recipe.oscillation_reset.enabled() ? store_resets(p, w, own) : 0;
      continue;
    }
    const std::int64_t in_this = linears_[i].after_update(w, step, steps, arena_);
    if (in_this > 0 && p.in_half()) scaled_store(w, p.half);
    resets += in_this;
  }
  return resets;
}

void Llama::visit_linear_state(const std::function<void(const StateTensor&)>& f) {
  for (std::size_t i = 0; i < linears_.size(); ++i) {
    const ArenaScope scope(arena_);
    const std::string prefix = fmt::format("linears.{}.", linears_[i].name());
    const Parameter& p = parameters_[linear_parameters_[i]];
    const bool shared = storage_.shares(3);
    const Tensor w = weight_if(linears_[i].recipe().weight_average.enabled(), i, arena_);
    linears_[i].visit_state(w, [&](const std::string& name, const Tensor& tensor) {
      if (!shared || !Linear::state_has_rows(name)) return f(StateTensor::of(prefix + name, tensor));
      f({prefix + name, {p.value.shape().begin(), p.value.shape().end()}, p.own.begin, tensor});
    });
  }
}

Tensor Llama::forward(const Tensor& tokens, const Layout& layout) {
  const PassContext pass = inference_pass();
  Tensor x = embed(to_device(tokens, tokens_sent_));
  Tensor out = arena_.allocate(DType::F32, {x.rows(), x.cols()});
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    enter_forward(b, false);
    const ArenaScope scope(arena_);
    BlockSaved saved;
    block_forward(b, x, out, layout, pass, false, saved);
    std::swap(x, out);
  }
  return x;
}

BatchLoss Llama::evaluate(const Batch& batch, std::vector<float>* token_losses) {
  const ArenaScope scope(arena_);
  const Tensor x = forward(batch.tokens);
  const Tensor losses = arena_.allocate(DType::F32, {x.rows()});
  head(x, to_device(batch.targets, targets_sent_), 0.0, Tensor(), true, losses, {});
  losses_read_.begin_read(losses);
  const Tensor each = losses_read_.read();
  if (token_losses != nullptr) {
    token_losses->insert(token_losses->end(), each.data<float>(), each.data<float>() + each.numel());
  }
  return sum_of(each, batch.targets);
}

std::string Llama::first_non_finite(const Batch& batch) {
  for (const Parameter& p : parameters_) {
    const ArenaScope scope(arena_);
    const std::int64_t at = nibble::first_non_finite(held_values_of(p, arena_));
    const std::int64_t before = storage_.shares(3) && p.is_matrix() ? p.own.begin * p.value.cols() : 0;
    if (at >= 0) return fmt::format("the parameter {} (element {})", p.name, before + at);
  }
  if (storage_.gathers_in_passes()) return "the outputs of blocks, or the logits";
  const ArenaScope scope(arena_);
  const PassContext pass = inference_pass();
  Tensor x = embed(to_device(batch.tokens, tokens_sent_));
  Tensor out = arena_.allocate(DType::F32, {x.rows(), x.cols()});
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    const ArenaScope block_scope(arena_);
    BlockSaved saved;
    block_forward(b, x, out, {batch.tokens.rows(), batch.tokens.cols(), {}, {}}, pass, false, saved);
    std::swap(x, out);
    const std::pair<const char*, Tensor> results[] = {{"attention.qkv", saved.qkv},
                                                      {"attention", saved.attended},
                                                      {"attention.output", saved.x_middle},
                                                      {"mlp.gate_up", saved.gate_up},
                                                      {"mlp.down", x}};
    for (const auto& [name, tensor] : results) {
      const std::int64_t at = nibble::first_non_finite(tensor);
      if (at >= 0) return fmt::format("the output of layers.{}.{} (element {})", b, name, at);
    }
  }
  return "the logits";
}

std::vector<float> Llama::next_token_logits(const std::vector<std::int32_t>& tokens) {
  const ArenaScope scope(arena_);
  const auto seq = static_cast<std::int64_t>(tokens.size());
  require(seq > 0 && seq <= config_.seq, "{} tokens given, the model takes 1 to {}", seq, config_.seq);
  const Tensor x = forward(Tensor::of(tokens.data(), {1, seq}));
  const Tensor normed = arena_.allocate(activations_, {1, config_.width});
  const Tensor rstd = arena_.allocate(DType::F32, {1});
  timed(profile_, "rmsnorm", rmsnorm_forward, x.row_range(seq - 1, seq), parameters_[final_norm_].value,
        static_cast<float>(config_.norm_eps), normed, rstd);
  const Tensor there = arena_.allocate(DType::F32, {1, config_.vocab});
  timed(profile_, "gemm head", gemm, GemmOperand{QTensor::view(normed)}, GemmOperand{QTensor::view(head_weight_)},
        there, Accumulate::Overwrite, arena_);
  std::vector<float> logits(static_cast<std::size_t>(config_.vocab));
  copy(there, Tensor::of(logits.data(), {1, config_.vocab}));
  return logits;
}

}  // namespace nibble
