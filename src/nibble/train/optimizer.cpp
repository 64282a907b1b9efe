#include "nibble/train/optimizer.h"

#include <optional>
#include <vector>

#include "nibble/tensor/device.h"

namespace nibble {

namespace {

AdamWStep with_decay(AdamWStep step, const Parameter& parameter) {
  if (!parameter.decay) step.weight_decay = 0;
  return step;
}

/// Own rows of the parameter's gradient in F32, in the scratch arena where it is stored otherwise.
Tensor gradient_of(const Parameter& parameter, Arena& scratch) {
  const Tensor grad = parameter.own_grad();
  if (grad.dtype() == DType::F32) return grad;
  const Tensor wide = scratch.allocate(DType::F32, {grad.numel()});
  convert(grad, wide);
  return wide;
}

/// A state of own rows, [n, cols], or of a vector.
StateTensor state_of(const Parameter& parameter, const std::string& suffix, const Tensor& rows) {
  return {parameter.name + suffix,
          {parameter.value.shape().begin(), parameter.value.shape().end()},
          parameter.is_matrix() ? parameter.own.begin : 0,
          rows};
}

/// The ranks that share a model's updates.
class Sharing {
 public:
  explicit Sharing(const ParameterStorage& storage) : ranks_(storage.shares(1) ? storage.communicator : nullptr) {}
  explicit operator bool() const { return ranks_ != nullptr; }
  /// Own rows of the parameter are updated: those of all ranks set out.
  void updated(const Parameter& parameter) {
    if (ranks_ == nullptr || !parameter.is_matrix() || parameter.value_piece.defined()) return;
    const Tensor& values = parameter.in_half() ? parameter.half.data : parameter.value;
    under_way_.push_back(ranks_->start_all_gather(parameter.piece(values, ranks_->rank()), parameter.padded(values)));
  }
  void finish() { under_way_.clear(); }  // waits
  Communicator& ranks() { return *ranks_; }

 private:
  Communicator* ranks_;
  std::vector<Pending> under_way_;
};

class AdamWFp32 final : public Optimizer {
 public:
  explicit AdamWFp32(Llama& model) : model_(model), sharing_(model.storage()) {
    for (const Parameter& p : model.parameters()) {
      require(!p.in_half(), "AdamW with FP32 states wants the FP32 weights of {}", p.name);
      const Tensor own = p.own_rows(p.value);
      m_.emplace_back(DType::F32, own.shape(), model.device());
      v_.emplace_back(DType::F32, own.shape(), model.device());
    }
  }
  void step(AdamWStep step) override {
    for (std::size_t i = 0; i < m_.size(); ++i) {
      const ArenaScope scope(model_.scratch());
      const Parameter& p = model_.parameters()[i];
      adamw_step(p.own_values(), gradient_of(p, model_.scratch()), m_[i], v_[i], with_decay(step, p));
      sharing_.updated(p);
    }
    sharing_.finish();
  }
  void visit(const std::function<void(const StateTensor&)>& f) const override {
    for (std::size_t i = 0; i < m_.size(); ++i) {
      const Parameter& p = model_.parameters()[i];
      f(state_of(p, ".m", m_[i]));
      f(state_of(p, ".v", v_[i]));
    }
  }

 private:
  Llama& model_;
  Sharing sharing_;
  std::vector<OwnedTensor> m_, v_;
};

class AdamWFp8 final : public Optimizer {
 public:
  explicit AdamWFp8(Llama& model) : model_(model), sharing_(model.storage()) {
    for (const Parameter& p : model.parameters()) {
      const Tensor own = p.own_rows(p.value);
      State state{{}, Scaled(DType::U8, own), Scaled(DType::F16, own)};
      if (!p.in_half()) state.master.emplace(DType::F16, own);
      states_.push_back(std::move(state));
    }
    if (sharing_) {
      amaxes_ = OwnedTensor(DType::I32, {static_cast<std::int64_t>(3 * states_.size())}, model.device());
    }
    parameters_changed();
  }
  void step(AdamWStep step) override {
    Arena& scratch = model_.scratch();
    if (sharing_) measure(step);
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const ArenaScope scope(scratch);
      const Parameter& p = model_.parameters()[i];
      const State& s = states_[i];
      const Tensor grad = gradient_of(p, scratch);
      // Where the model reads the master itself, nobody wants its values in F32.
      const Tensor values = p.in_half() ? scratch.allocate(DType::F32, {grad.numel()}) : p.own_values();
      const AdamWStep decayed = with_decay(step, p);
      if (sharing_) {
        adamw_fp8_store(values, grad, own_master(i), s.m.view(), s.v.view(), decayed, amax(i), scratch);
      } else {
        adamw_fp8_step(values, grad, own_master(i), s.m.view(), s.v.view(), decayed, scratch);
      }
      sharing_.updated(p);
    }
    sharing_.finish();
  }
  void visit(const std::function<void(const StateTensor&)>& f) const override {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const Parameter& p = model_.parameters()[i];
      // The model's own master must be whole after it was read, where it was before.
      f(p.in_half() && !p.value_piece.defined() ? StateTensor::of(p.name + ".master", p.half.data)
                                                : state_of(p, ".master", own_master(i).data));
      f(StateTensor::of(p.name + ".master.scale_inv", own_master(i).scale_inv));
      for (const auto& [suffix, state] : {std::pair{".m", &states_[i].m}, {".v", &states_[i].v}}) {
        f(state_of(p, suffix, state->data));
        f(StateTensor::of(p.name + suffix + ".scale_inv", state->scale_inv));
      }
    }
  }
  // The model computes with what the FP16 master stores.
  void parameters_changed() override {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const Parameter& p = model_.parameters()[i];
      if (p.in_half()) continue;
      const ArenaScope scope(model_.scratch());
      const ScaledTensor master = own_master(i);
      const Tensor own = p.own_values();
      if (sharing_) {  // the scale is that of the whole
        const Tensor largest = amax(i).elements(0, 1);
        fill_zero(largest);
        scaled_measure(own, largest);
        sharing_.ranks().all_reduce(largest, Reduce::Max);
        scaled_store(own, largest, master);
      } else {
        scaled_store(own, master);
      }
      if (own.numel() > 0) scaled_load(master, own);
      sharing_.updated(p);
    }
    sharing_.finish();
  }

 private:
  struct Scaled {
    OwnedTensor data, scale_inv;
    Scaled(DType dtype, const Tensor& like)
        : data(dtype, like.shape(), like.device()), scale_inv(DType::F32, {1}, like.device()) {
      const float one = 1.0f;
      copy(Tensor::of(&one, {1}), scale_inv);
    }
    ScaledTensor view() const { return {data, scale_inv}; }
  };
  struct State {
    std::optional<Scaled> master;  // the model's own where that stores it
    Scaled m, v;
  };
  ScaledTensor own_master(std::size_t i) const {
    if (states_[i].master) return states_[i].master->view();
    const Parameter& p = model_.parameters()[i];
    return {p.own_values(), p.half.scale_inv};
  }
  Tensor amax(std::size_t i) const {
    const auto at = static_cast<std::int64_t>(3 * i);
    return amaxes_.view().elements(at, at + 3);
  }
  /// The largest new values of every tensor on any rank.
  void measure(const AdamWStep& step) {
    fill_zero(amaxes_);
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const ArenaScope scope(model_.scratch());
      const Parameter& p = model_.parameters()[i];
      adamw_fp8_measure(gradient_of(p, model_.scratch()), own_master(i), states_[i].m.view(), states_[i].v.view(),
                        with_decay(step, p), amax(i));
    }
    sharing_.ranks().all_reduce(amaxes_, Reduce::Max);
  }

  Llama& model_;
  Sharing sharing_;
  std::vector<State> states_;
  OwnedTensor amaxes_;  // I32 [3 * parameters], where ranks share updates
};

}  // namespace

std::size_t Optimizer::bytes() const {
  std::size_t total = 0;
  visit([&](const StateTensor& state) { total += state.rows.bytes(); });
  return total;
}

ParameterStorage storage_for(OptimizerKind kind, DType gradients) {
  return {.half_weights = kind == OptimizerKind::AdamWFp8, .gradients = gradients};
}

std::unique_ptr<Optimizer> make_optimizer(OptimizerKind kind, Llama& model) {
  if (kind == OptimizerKind::AdamWFp8) return std::make_unique<AdamWFp8>(model);
  return std::make_unique<AdamWFp32>(model);
}

}  // namespace nibble
