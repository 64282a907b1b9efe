#include "nibble/model/memory.h"

#include <fmt/core.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "nibble/dist/row_pieces.h"
#include "nibble/model/llama.h"
#include "nibble/model/operand_memory.h"
#include "nibble/ops/fused_quantize.h"
#include "nibble/quant/requantize.h"
#include "nibble/recipe/linear_contract.h"
#include "nibble/recipe/weight_gather.h"

namespace nibble {

namespace {

/// The bytes in use of an arena, and the most there were.
class Ledger {
 public:
  void take(double bytes) {
    used_ += std::ceil(bytes / 64) * 64;
    peak_ = std::max(peak_, used_);
  }
  /// Taken and given back.
  void touch(double bytes) { peak_ = std::max(peak_, used_ + bytes); }
  double used() const { return used_; }
  double peak() const { return peak_; }
  void rewind(double mark) { used_ = mark; }

 private:
  double used_ = 0, peak_ = 0;
};

class LedgerScope {
 public:
  explicit LedgerScope(Ledger& ledger) : ledger_(ledger), mark_(ledger.used()) {}
  ~LedgerScope() { ledger_.rewind(mark_); }
  LedgerScope(const LedgerScope&) = delete;
  LedgerScope& operator=(const LedgerScope&) = delete;

 private:
  Ledger& ledger_;
  double mark_;
};

double product_of(std::int64_t a, std::int64_t b) { return static_cast<double>(a) * static_cast<double>(b); }

/// A linear layer Y [T, N] = X [T, K] W^T in one stage.
struct Layer {
  const LinearRecipe& recipe;
  std::int64_t outputs;  // N
  std::int64_t inputs;   // K
  DType dy;              // of the gradient that comes in

  const OperandSpec& operator[](Operand o) const { return recipe[o]; }
  bool from_fprop(Operand o) const { return recipe[o].source != OperandSource::HighPrecision; }
  bool rotated() const { return recipe[Operand::FpropW].quant.hadamard.enabled(); }
  bool w_is_constant() const { return recipe[Operand::DgradW].quant.hadamard.signs != Hadamard::Signs::Call; }
  std::int64_t outliers() const {
    const OutlierChannels& o = recipe.outlier_channels;
    if (!o.enabled()) return 0;
    const auto share = static_cast<std::int64_t>(std::ceil(o.share * static_cast<double>(inputs)));
    return std::min(inputs, (share + o.multiple - 1) / o.multiple * o.multiple);
  }
};

/// Follows the allocations of one step of Llama and Linear in one stage of the recipe.
class StepWalk {
 public:
  StepWalk(const MemoryQuestion& question, std::size_t stage, bool measured)
      : q_(question),
        m_(question.model),
        stage_(stage),
        measured_(measured),
        tokens_(question.sequences * question.model.seq) {
    prepare();
    pass();
  }

  double working_copies() const { return weights_.peak(); }
  double window(std::size_t i) const { return windows_[i].peak(); }
  const Ledger& activations() const { return arena_; }
  const Ledger& inputs() const { return inputs_; }
  double saved() const { return saved_; }
  double state() const { return state_; }
  double sum() const { return working_copies() + window(0) + window(1) + arena_.peak() + inputs_.peak() + state_; }

 private:
  bool gpu() const { return q_.device == Device::Cuda; }
  double per_token(double bytes) const { return bytes * static_cast<double>(tokens_); }

  /// Weights of linear layers are stored in less than F32, gradients are.
  bool half() const { return q_.linears.weight < 4; }
  bool narrow() const { return q_.linears.gradient < 4; }

  Layer layer(std::int64_t block, std::size_t which) const {
    const LinearShape shape = block_linears(m_)[which];
    const std::string name = fmt::format("layers.{}.{}", block, shape.name);
    return {q_.recipe.resolve(name, block, m_.layers, stage_), shape.outputs, shape.inputs,
            shape.adds_to_stream ? DType::F32 : DType::BF16};
  }

  OperandMemory operand(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, DType source, bool folded = false,
                        bool for_product = true) const {
    return operand_memory(spec, rows, cols, source, folded, for_product && !measured_, q_.device);
  }

  void quantise(Ledger& ledger, const OperandMemory& memory) {
    ledger.touch(memory.kept + memory.scratch);
    ledger.take(memory.kept);
  }

  // Linear::prepare and what Linear keeps from step to step
  void prepare() {
    const double table = product_of(pieces_of(m_.vocab).padded(), m_.width);
    if (q_.sharding.divides(3)) weights_.take(4 * table);  // the embedding is read in F32
    weights_.take(2 * table);
    for (std::int64_t block = 0; block < m_.layers; ++block) {
      for (std::size_t which = 0; which < 4; ++which) keep_state(layer(block, which));
      if (by_block()) {
        prepare_in_window(block);
      } else {
        prepare(block, WeightUse::Both, weights_);
      }
    }
  }

  bool by_block() const { return q_.sharding.divides(3) && q_.sharding.gather == GatherWeights::Block; }

  // Llama::enter_forward and enter_backward
  void prepare_in_window(std::int64_t block) {
    Ledger& window = windows_[static_cast<std::size_t>(block % 2)];
    const auto gather = [&](WeightUse use) {
      window.rewind(0);
      prepare(block, use, window);
    };
    if (block + 1 == m_.layers) return gather(WeightUse::Both);
    gather(WeightUse::Forward);
    gather(q_.recompute == Recompute::Block ? WeightUse::Both : WeightUse::Backward);
  }

  void prepare(std::int64_t block, WeightUse use, Ledger& to) {
    for (std::size_t which = 0; which < 4; ++which) prepare(layer(block, which), use, to);
  }

  /// While a block of a pass is gathered.
  void touch_gathering() {
    if (by_block()) arena_.touch(gathering_);
  }

  RowPieces pieces_of(std::int64_t rows) const {
    return {rows, q_.sharding.divides(3) ? static_cast<int>(q_.sharding.ranks) : 1};
  }

  void prepare(const Layer& l, WeightUse use, Ledger& to) {
    const double elements = product_of(l.outputs, l.inputs);
    const WeightNeeds needs = weight_needs(l.recipe, use, l.outliers());
    double scratch = 0;
    if (q_.sharding.divides(3)) {
      const RowPieces pieces = pieces_of(l.outputs);
      const WeightGather gather = weight_gather(l.recipe, pieces, l.inputs, use, l.outliers(), measured_);
      const double size = gather.weight ? static_cast<double>(dtype_size(*gather.weight)) : 0;
      to.take(size * product_of(pieces.padded(), l.inputs));
      for (const auto& [travels, which] : {std::pair{gather.fprop, Operand::FpropW}, {gather.dgrad, Operand::DgradW}}) {
        if (!travels) continue;
        const OperandMemory own = operand(l[which].quant, pieces.piece(), l.inputs, DType::F32, false, false);
        scratch = std::max(scratch, own.kept + own.scratch);
      }
    }
    if (needs.fprop) {
      const bool only_products = l[Operand::DgradW].source != OperandSource::Requantise &&
                                 !l.recipe.oscillation_reset.enabled() && l.outliers() == 0;
      quantise(to, operand(l[Operand::FpropW].quant, l.outputs, l.inputs, DType::F32, false, only_products));
    }
    if (needs.outliers) {
      to.take(4 * static_cast<double>(l.inputs));
      to.take(4 * product_of(l.outputs, l.outliers()));
      quantise(to, operand(l.recipe.outlier_channels.quant, l.outputs, l.outliers(), DType::F32));
      if (l[Operand::FpropW].quant.rounding == Rounding::Reference) to.take(4 * elements);
    }
    if (needs.dgrad || needs.requantised) {
      const OperandMemory w = own_dgrad_w(l);
      quantise(to, w);
      scratch = std::max(scratch, w.copy);
    }
    if (needs.residual) to.take(2 * elements);
    // Decoded: a rank's rows.
    const double decoded = (half() ? 4 : 0) * elements * q_.sharding.share(3);
    gathering_ = std::max(gathering_, decoded + scratch);
    if (!by_block()) arena_.touch(decoded + scratch);
  }

  /// What outlives the passes, and what follows the update takes: values and gradient in F32, for the optimizer.
  void keep_state(const Layer& l) {
    const double elements = product_of(l.outputs, l.inputs);
    if (measured_ && has_scale(l[Operand::FpropW].quant.element)) {
      const std::int64_t sample = measured_rows(l.outputs, 1);
      if (q_.sharding.divides(3)) {  // of this rank's rows, with their quantised values
        weights_.take(8 * product_of(std::min(sample, pieces_of(l.outputs).piece()), l.inputs));
      } else {
        weights_.take(4 * product_of(sample, l.inputs));
      }
    }
    arena_.touch((half() ? 4 : 0) * elements + (narrow() ? 4 : 0) * elements);
    if (l.recipe.weight_average.enabled()) state_ += 4 * elements;
    const OscillationReset& reset = l.recipe.oscillation_reset;
    if (reset.enabled() && reset.criterion == OscillationReset::Criterion::Ratio) state_ += 16 * elements;
  }

  // Llama::forward_backward
  void pass() {
    const double stream = per_token(4.0 * static_cast<double>(m_.width));
    const std::int64_t kept_from = q_.recompute == Recompute::Block ? m_.layers - 1 : 0;
    const bool keep_inputs = q_.recompute != Recompute::BlockParts;
    arena_.take(per_token(gpu() ? 12 : 4));  // losses and, elsewhere than the batch, tokens and targets
    arena_.take(2 * stream);                 // the embedding and the gradient of the stream
    for (std::int64_t b = 0; b < m_.layers; ++b) magnitudes(layer(b, 3), inputs_);  // of that gradient
    std::vector<double> marks;
    for (std::int64_t b = 0; b < m_.layers; ++b) {
      arena_.take(stream);
      marks.push_back(arena_.used());
      touch_gathering();
      block_forward(b, true, keep_inputs && b >= kept_from);
      if (b < kept_from) arena_.rewind(marks.back());
    }
    saved_ = arena_.used();
    head();
    for (std::int64_t b = m_.layers; b-- > 0;) {
      touch_gathering();
      if (b < kept_from) block_forward(b, false, keep_inputs);
      block_backward(b);
      arena_.rewind(marks[static_cast<std::size_t>(b)]);
    }
    arena_.touch(4 * (static_cast<double>(m_.vocab) + per_token(2)));  // embedding_backward sorts the tokens
  }

  void block_forward(std::int64_t block, bool down_product, bool keep_inputs) {
    const auto d = static_cast<double>(m_.width);
    arena_.take(per_token(4));
    arena_.take(per_token(2.0 * static_cast<double>(m_.qkv_width())));
    linear_input(layer(block, 0), keep_inputs);
    linear_forward(layer(block, 0), true, false);
    if (m_.qk_norm) {
      const auto heads = static_cast<double>(m_.heads + m_.kv_heads);
      arena_.take(per_token(2 * heads * static_cast<double>(m_.head_dim())));
      arena_.take(per_token(4 * heads));
    }
    arena_.take(per_token(2.0 * static_cast<double>(m_.attention_width())));
    arena_.take(per_token(4.0 * static_cast<double>(m_.heads)));
    attention_scratch(1);
    arena_.take(per_token(4 * d));
    inputs_.touch(lent_weight(layer(block, 1), measured_));
    linear_forward(layer(block, 1), true, true);
    arena_.take(per_token(4));
    arena_.take(per_token(4.0 * static_cast<double>(m_.ffn)));
    linear_input(layer(block, 2), keep_inputs);
    linear_forward(layer(block, 2), true, false);
    linear_input(layer(block, 3), keep_inputs);
    linear_forward(layer(block, 3), down_product, true);
  }

  bool backward_reads_input(const Layer& l) const {
    return wgrad_reads_input(l.recipe) || measured_ || l.outliers() > 0;
  }

  void linear_input(const Layer& l, bool keep) {
    // Quantised as it is made, it is never written.
    if (!backward_reads_input(l) && fuses_quantize(l[Operand::FpropX].quant, l.inputs, q_.device)) return;
    const double bytes = 2 * product_of(tokens_, l.inputs);
    const bool kept = keep && wgrad_reads_input(l.recipe);
    if (kept) arena_.take(bytes);
    inputs_.touch((kept ? 0 : bytes) + lent_weight(l, measured_));
  }

  /// A weight that is stored in half and read in a pass.
  double lent_weight(const Layer& l, bool read) const {
    return half() && read ? 4 * product_of(l.outputs, l.inputs) : 0;
  }

  OperandMemory fprop_x(const Layer& l) const {
    const bool only_products = l[Operand::WgradX].source != OperandSource::Requantise;
    return operand(l[Operand::FpropX].quant, tokens_, l.inputs, DType::BF16, l.outliers() > 0, only_products);
  }
  OperandMemory fprop_w(const Layer& l) const {
    return operand(l[Operand::FpropW].quant, l.outputs, l.inputs, DType::F32);
  }
  OperandMemory dgrad_w(const Layer& l) const {
    if (l[Operand::DgradW].source == OperandSource::Fprop) return fprop_w(l);
    return own_dgrad_w(l);
  }
  OperandMemory own_dgrad_w(const Layer& l) const {
    const QTensor stored = operand(l[Operand::FpropW].quant, l.outputs, l.inputs, DType::F32, false, false).form;
    return from_fprop(l, Operand::DgradW, stored, operand(l[Operand::DgradW].quant, l.outputs, l.inputs, DType::F32));
  }
  /// With the values of what fprop stored where they are written out.
  OperandMemory from_fprop(const Layer& l, Operand which, const QTensor& stored, OperandMemory own) const {
    if (l[which].source != OperandSource::Requantise) return own;
    const bool whole = which != Operand::DgradW || l.outliers() == 0;  // no channels to be put back
    if (!measured_ && whole && requantizes_codes(stored, l[which].quant, q_.device)) {
      own.scratch = 0;
    } else {
      own.copy = 4 * product_of(stored.rows, stored.cols);
    }
    return own;
  }

  void linear_forward(const Layer& l, bool product, bool addend) {
    const OperandMemory x = fprop_x(l);
    quantise(arena_, x);
    if (l.outliers() > 0) {
      arena_.take(2 * product_of(tokens_, l.outliers()));
      quantise(arena_, operand(l.recipe.outlier_channels.quant, tokens_, l.outliers(), DType::BF16));
    }
    if (!product) return;
    const LedgerScope scope(arena_);
    if (measured_ && addend) arena_.take(4 * product_of(measured_rows(tokens_, kMeasuredTokens), l.outputs));
    arena_.touch(product_scratch({x.form}, {fprop_w(l).form}, q_.device));
    const Clamp& clamp = l[Operand::FpropX].quant.clamp;
    if (clamp.residual == ResidualMode::Sparse) {
      arena_.touch(spmm_fprop_scratch(clamp, tokens_, l.inputs, q_.device));
    }
    if (measured_) measured_product(measured_rows(tokens_, kMeasuredTokens), l.outputs, l.inputs, DType::BF16);
  }

  void linear_backward(const Layer& l) {
    const LedgerScope scope(arena_);
    const bool dge = l.recipe.weight_gradient.estimator == WeightGradient::Estimator::Dge;
    arena_.take(lent_weight(l, measured_ || dge || !l.w_is_constant()));
    if (narrow()) arena_.take(4 * product_of(l.outputs, l.inputs));
    const auto call_w = dgrad_w(l);
    if (l[Operand::DgradW].source != OperandSource::Fprop && !l.w_is_constant()) {
      arena_.take(call_w.copy);
      quantise(arena_, call_w);
    }
    const OperandSpec& in_dgrad = l[Operand::DgradDy];
    const OperandSpec& in_wgrad = l[Operand::WgradDy];
    const OperandMemory dy = operand(in_dgrad.quant, tokens_, l.outputs, l.dy, in_dgrad.fold_partner_scales);
    const OperandMemory own = operand(in_wgrad.quant, tokens_, l.outputs, l.dy, in_wgrad.fold_partner_scales);
    const bool reuses_x = l[Operand::WgradX].source == OperandSource::Fprop;
    const bool shared = shares_gradient(l.recipe);
    const bool pair = pairs_gradients(l.recipe) && dy.kept > 0 && own.kept > 0;
    quantise(arena_, dy);
    if (pair) quantise(arena_, own);
    const double dx = product_of(tokens_, l.inputs);
    if (rotates_dx_back(l.recipe)) arena_.take((l.from_fprop(Operand::DgradW) ? 2 : 4) * dx);
    const bool reuses_w = l[Operand::DgradW].source == OperandSource::Fprop;
    arena_.touch(product_scratch(
        {dy.form}, {call_w.form, reuses_w || !l[Operand::DgradW].quant.transposed, in_dgrad.fold_partner_scales},
        q_.device));
    if (reuses_w && l.outliers() > 0) arena_.take(4 * product_of(tokens_, l.outliers()));
    if (measured_) measured_product(measured_rows(tokens_, kMeasuredTokens), l.inputs, l.outputs, l.dy);

    OperandMemory x = fprop_x(l);
    if (!reuses_x) {
      const bool again = l[Operand::WgradX].source == OperandSource::Requantise;
      if (!again && l.outliers() > 0) arena_.take(2 * product_of(tokens_, l.inputs));
      x = from_fprop(l, Operand::WgradX, x.form,
                     operand(l[Operand::WgradX].quant, tokens_, l.inputs, again ? DType::F32 : DType::BF16));
      arena_.take(x.copy);
      quantise(arena_, x);
    }
    const bool w_masked = l[Operand::FpropW].quant.trust_mask;
    const double dw = 4 * product_of(l.outputs, l.inputs);
    if (q_.several_passes && (dge || w_masked || rotates_dw_back(l.recipe))) arena_.take(dw);
    {
      const LedgerScope sample(arena_);
      if (!shared && !pair) quantise(arena_, own);
      arena_.touch(product_scratch(
          {shared ? dy.form : own.form, !in_wgrad.quant.transposed},
          {x.form, reuses_x || !l[Operand::WgradX].quant.transposed, in_wgrad.fold_partner_scales}, q_.device));
    }
    if (dge && l.rotated()) arena_.take(dw);
    const Clamp& clamp = l[Operand::FpropX].quant.clamp;
    if (clamp.residual == ResidualMode::Sparse && l.recipe.residual_in_wgrad) {
      arena_.touch(spmm_wgrad_scratch(clamp, tokens_, l.inputs, l.outputs, l.dy, q_.device));
    }
    if (l.outliers() > 0) {
      QuantSpec spec = l.recipe.outlier_channels.quant;
      spec.transposed = true;
      arena_.take(4 * product_of(tokens_, l.outliers()));
      quantise(arena_, operand(spec, tokens_, l.outliers(), DType::F32));
      quantise(arena_, operand(spec, tokens_, l.outputs, l.dy));
      arena_.take(4 * product_of(l.outputs, l.outliers()));
    }
    if (measured_) {
      const std::int64_t rows = measured_rows(l.outputs, 1);
      const LedgerScope sample(arena_);
      arena_.take(static_cast<double>(dtype_size(l.dy)) * product_of(tokens_, rows));
      measured_product(rows, l.inputs, tokens_, l.dy);
    }
  }

  /// A product [m, n] in high precision to compare with, contraction over k.
  void measured_product(std::int64_t m, std::int64_t n, std::int64_t k, DType dtype) {
    const Tensor a(nullptr, dtype, {m, k}, q_.device);
    const Tensor b(nullptr, DType::F32, {n, k}, q_.device);
    const QTensor left = QTensor::view(a);
    const QTensor right = QTensor::view(b);
    arena_.touch(4 * product_of(m, n) + product_scratch({left}, {right}, q_.device));
  }

  /// Forward, or twice as many tiles of a thread for the backward; cuDNN sums dQ in FP32.
  void attention_scratch(int tensors) {
    const auto head = static_cast<double>(m_.head_dim());
    if (gpu())
      return arena_.touch(tensors == 1 ? 0 : per_token(4.0 * static_cast<double>(m_.attention_width() + 2 * m_.heads)));
    constexpr double kBlock = 64;
    const double blocks = std::ceil(static_cast<double>(m_.seq) / kBlock);
    arena_.touch(4 * omp_get_max_threads() * tensors *
                 ((head + kBlock) * (kBlock + 16) + (2 + 2 * blocks) * kBlock * (head + 16)));
  }

  void block_backward(std::int64_t block) {
    const LedgerScope scope(arena_);
    const auto d = static_cast<double>(m_.width);
    const Layer qkv = layer(block, 0);
    const Layer gate_up = layer(block, 2);
    const Layer down = layer(block, 3);
    arena_.take(per_token(2.0 * static_cast<double>(m_.ffn)));
    {
      const LedgerScope input(arena_);
      missing_input(down);
      linear_backward(down);
    }
    magnitudes(gate_up, arena_);
    arena_.take(per_token(2 * d));
    {
      const LedgerScope input(arena_);
      missing_input(gate_up);
      linear_backward(gate_up);
    }
    magnitudes(layer(block, 1), arena_);
    norm_scratch();
    arena_.take(per_token(2.0 * static_cast<double>(m_.attention_width())));
    linear_backward(layer(block, 1));
    arena_.take(per_token(2.0 * static_cast<double>(m_.qkv_width())));
    attention_scratch(2);
    magnitudes(qkv, arena_);
    if (m_.qk_norm) partial_sums(2 * m_.head_dim());
    if (m_.qkv_bias) partial_sums(m_.qkv_width());
    missing_input(qkv);
    linear_backward(qkv);
    norm_scratch();
  }

  /// Of a dY from which both backward products quantise, where whoever writes it may find them.
  void magnitudes(const Layer& l, Ledger& to) const {
    if (gpu() && !measured_ && pairs_gradients(l.recipe)) to.take(static_cast<double>(4 * (tokens_ + l.outputs)));
  }

  void missing_input(const Layer& l) {
    const bool kept = wgrad_reads_input(l.recipe) && q_.recompute != Recompute::BlockParts;
    if (!kept && backward_reads_input(l)) arena_.take(2 * product_of(tokens_, l.inputs));
  }

  /// Of a gradient of n elements that is a sum over the tokens.
  void partial_sums(std::int64_t n) { arena_.touch(4 * std::min(256.0, per_token(1.0 / 32)) * static_cast<double>(n)); }
  void norm_scratch() { partial_sums(m_.width); }

  void head() {
    const LedgerScope scope(arena_);
    const auto d = static_cast<double>(m_.width);
    arena_.take(per_token(2 * d));
    arena_.take(per_token(4));
    const std::int64_t chunk = std::min(head_rows(q_.device), tokens_);
    arena_.take(6 * product_of(chunk, m_.vocab));
    arena_.take(per_token(2 * d));
    const Tensor logits(nullptr, DType::BF16, {chunk, m_.vocab}, q_.device);
    const Tensor input(nullptr, DType::BF16, {chunk, m_.width}, q_.device);
    const Tensor weight(nullptr, DType::BF16, {m_.vocab, m_.width}, q_.device);
    const QTensor dy = QTensor::view(logits);
    const QTensor x = QTensor::view(input);
    const QTensor w = QTensor::view(weight);
    arena_.touch(product_scratch({x}, {w}, q_.device));
    arena_.touch(product_scratch({dy}, {w, true}, q_.device));
    arena_.touch(product_scratch({dy, true}, {x, true}, q_.device));
    norm_scratch();
  }

  const MemoryQuestion& q_;
  const LlamaConfig& m_;
  std::size_t stage_;
  bool measured_;
  std::int64_t tokens_;
  Ledger weights_, arena_, inputs_;
  std::array<Ledger, 2> windows_;
  double gathering_ = 0;  // scratch of Linear::start_prepare and finish_prepare
  double saved_ = 0;
  double state_ = 0;
};

/// Elements of parameters, with the padding of pieces.
struct Elements {
  double block = 0;    // matrices of one block
  double table = 0;    // embedding, or head
  double vectors = 0;  // of all
  double linears = 0;  // matrices of all blocks
  double tables = 0;   // embedding and head
};

Elements elements_of(const LlamaConfig& model, std::int64_t ranks) {
  Elements e;
  for (const ParameterShape& s : parameter_shapes(model)) {
    if (s.shape.size() == 1) {
      e.vectors += static_cast<double>(s.shape[0]);
      continue;
    }
    const double padded = product_of(RowPieces(s.shape[0], static_cast<int>(ranks)).padded(), s.shape[1]);
    if (s.name.starts_with("layers.")) {
      e.linears += padded;
    } else {
      e.table = padded;
      e.tables += padded;
    }
  }
  e.block = e.linears / static_cast<double>(model.layers);
  return e;
}

/// A bucket of gradients (model/parameter_memory.h): matrices of a block, or a table.
struct Bucket {
  double linears = 0;
  double table = 0;
};

std::vector<Bucket> buckets_of(const LlamaConfig& model, const Elements& e) {
  std::vector<Bucket> all(static_cast<std::size_t>(model.layers) + 2, Bucket{e.block, 0});
  all.front() = {0, model.tied_head ? 0 : e.table};
  all.back() = {0, e.table};
  return all;
}

/// What one exchange of a matrix's gradient, stored in `stored` bytes an element, takes beside it, bytes an element.
double exchange_bytes(const Sharding& s, double stored) {
  const bool shares = s.divides(1);
  if (s.ordered_arriving > 0) return shares ? s.ordered_arriving * stored : 0;
  if (s.travelling_gradient <= 1) return 2;
  if (s.travelling_gradient < stored) return s.travelling_gradient;
  return s.divides(2) && s.several_passes ? stored / static_cast<double>(s.ranks) : 0;  // sums that wait to be added
}

/// Buffers that gradients wait or travel in.
double exchange_buffers(const MemoryQuestion& q, const Elements& e) {
  const Sharding& s = q.sharding;
  const double linear = q.linears.gradient;
  const double table = q.others.gradient;
  const double whole = linear * e.linears + table * (e.tables + e.vectors);
  double bytes = s.ordered_held * whole;
  if (s.ranks == 1) return bytes;
  const auto of_bucket = [&](const Bucket& b) {
    return exchange_bytes(s, linear) * b.linears + exchange_bytes(s, table) * b.table;
  };
  const std::vector<Bucket> buckets = buckets_of(q.model, e);
  if (!s.divides(1)) {
    for (const Bucket& b : buckets) bytes += of_bucket(b);
    return bytes + s.ordered_arriving * whole;
  }
  double memory[3] = {0, 0, 0};
  for (std::size_t b = 0; b < buckets.size(); ++b) memory[b % 3] = std::max(memory[b % 3], of_bucket(buckets[b]));
  bytes += memory[0] + memory[1] + memory[2];
  if (!s.divides(2)) return bytes;
  // Whole gradients take turns, those of linear layers and tables in one buffer where both are F32; but for a tied
  // head's, which stays.
  const double tables = q.model.tied_head ? 0 : table * e.table;
  const double linears = linear * e.block;
  bytes += 2 * (linear == table ? std::max(tables, linears) : tables + linears);
  return bytes + (q.model.tied_head ? table * e.table : 0);
}

/// What a rank writes: F32 weights, masters that are not those, moments and the recipe's state.
double checkpoint_copy(const MemoryQuestion& q, const Elements& e, double recipe_state) {
  if (!q.checkpoint_copy) return 0;
  const auto written = [](const ParameterBytes& bytes) {
    return bytes.sum() - bytes.gradient + (bytes.weight < 4 ? 4 : 0);
  };
  const double matrices = written(q.linears) * e.linears + written(q.others) * e.tables + recipe_state;
  return matrices / static_cast<double>(q.sharding.ranks) + written(q.others) * e.vectors;
}

/// What the driver, kernels and workspaces of cuBLASLt and cuDNN take of a GPU beside tensors.
constexpr double kLibraryBytes = 0.75 * (1 << 30);
constexpr const char* kLibraries = "driver and libraries";

}  // namespace

double MemoryPlan::total() const {
  double sum = 0;
  for (const MemoryPart& part : parts) sum += part.bytes;
  return sum;
}

double MemoryPlan::tensors() const {
  return !parts.empty() && parts.back().name == kLibraries ? total() - parts.back().bytes : total();
}

std::int64_t most_sharing_ranks(const LlamaConfig& model) {
  std::int64_t rows = model.vocab;
  for (const LinearShape& shape : block_linears(model)) rows = std::min(rows, shape.outputs);
  return (rows + RowPieces::kBorder - 1) / RowPieces::kBorder;
}

MemoryPlan plan_memory(const MemoryQuestion& question) {
  MemoryQuestion q = question;
  q.recipe.high_precision = unquantised_recipe(ElementFormat::BF16).base();
  if (q.sharding.divides(1)) q.sharding.ranks = std::min(q.sharding.ranks, most_sharing_ranks(q.model));
  MemoryPlan plan;
  double saved = 0;
  double state = 0;
  double most = -1;
  for (std::size_t stage = 0; stage < q.recipe.stages.size(); ++stage) {
    for (const bool measured : {false, true}) {
      if (measured && !q.measured) continue;
      const StepWalk walk(q, stage, measured);
      // Arenas do not shrink: each is as large as the step that asks most of it.
      plan.working_copies = std::max(plan.working_copies, walk.working_copies());
      for (std::size_t i = 0; i < 2; ++i) plan.windows[i] = std::max(plan.windows[i], walk.window(i));
      plan.activations = std::max(plan.activations, walk.activations().peak());
      plan.inputs = std::max(plan.inputs, walk.inputs().peak());
      state = std::max(state, walk.state());
      if (walk.sum() > most) saved = walk.saved();
      most = std::max(most, walk.sum());
    }
  }
  const Elements e = elements_of(q.model, q.sharding.divides(1) ? q.sharding.ranks : 1);
  const Sharding& s = q.sharding;
  const auto states = [&](double ParameterBytes::*bytes, int level) {
    return s.share(level) * (q.linears.*bytes * e.linears + q.others.*bytes * e.tables) + q.others.*bytes * e.vectors;
  };
  plan.parts = {{"weights", states(&ParameterBytes::weight, 3)},
                {"gradients", states(&ParameterBytes::gradient, 2)},
                {"first moment", states(&ParameterBytes::first_moment, 1)},
                {"second moment", states(&ParameterBytes::second_moment, 1)},
                {"state of the recipe", s.share(3) * state},
                {"working copies of the weights", plan.working_copies + plan.windows[0] + plan.windows[1]},
                {"exchange buffers", exchange_buffers(q, e)},
                {"copy for checkpoints", checkpoint_copy(q, e, state)},
                {"saved activations", saved},
                {"workspace", plan.activations + plan.inputs - saved}};
  if (q.device == Device::Cuda) plan.parts.push_back({kLibraries, kLibraryBytes});
  std::erase_if(plan.parts, [](const MemoryPart& part) { return part.bytes == 0; });
  return plan;
}

std::string memory_text(double bytes) {
  const char* unit = bytes >= 1 << 30 ? "GiB" : bytes >= 1 << 20 ? "MiB" : "KiB";
  const double value = bytes / (bytes >= 1 << 30 ? 1 << 30 : bytes >= 1 << 20 ? 1 << 20 : 1 << 10);
  return fmt::format("{:.{}f} {}", value, value < 9.995 ? 2 : value < 999.5 ? 1 : 0, unit);
}

std::string memory_table(const MemoryPlan& plan, const std::string& indent) {
  std::string table;
  const auto row = [&](const std::string& name, double bytes) {
    table += fmt::format("{}{}{:<30} {:>10} {:>5.1f} %", table.empty() ? "" : "\n", indent, name, memory_text(bytes),
                         100 * bytes / plan.total());
  };
  for (const MemoryPart& part : plan.parts) row(part.name, part.bytes);
  row("total", plan.total());
  return table;
}

}  // namespace nibble
