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

/// The parameter's gradient in F32, in the scratch arena where it is stored otherwise.
Tensor gradient_of(const Parameter& parameter, Arena& scratch) {
  if (parameter.grad.dtype() == DType::F32) return parameter.grad;
  const Tensor wide = scratch.allocate(DType::F32, {parameter.grad.numel()});
  convert(parameter.grad, wide);
  return wide;
}

class AdamWFp32 final : public Optimizer {
 public:
  explicit AdamWFp32(Llama& model) : model_(model) {
    for (const Parameter& p : model.parameters()) {
      require(!p.in_half(), "AdamW with FP32 states wants the FP32 weights of {}", p.name);
      m_.emplace_back(DType::F32, p.value.shape(), model.device());
      v_.emplace_back(DType::F32, p.value.shape(), model.device());
    }
  }
  void step(AdamWStep step) override {
    for (std::size_t i = 0; i < m_.size(); ++i) {
      const ArenaScope scope(model_.scratch());
      const Parameter& p = model_.parameters()[i];
      adamw_step(p.value, gradient_of(p, model_.scratch()), m_[i], v_[i], with_decay(step, p));
    }
  }
  void visit(const std::function<void(const StateTensor&)>& f) const override {
    for (std::size_t i = 0; i < m_.size(); ++i) {
      const std::string& name = model_.parameters()[i].name;
      f(StateTensor::of(name + ".m", m_[i]));
      f(StateTensor::of(name + ".v", v_[i]));
    }
  }

 private:
  Llama& model_;
  std::vector<OwnedTensor> m_, v_;
};

class AdamWFp8 final : public Optimizer {
 public:
  explicit AdamWFp8(Llama& model) : model_(model) {
    for (const Parameter& p : model.parameters()) {
      State state{{}, Scaled(DType::U8, p.value), Scaled(DType::F16, p.value)};
      if (!p.in_half()) state.master.emplace(DType::F16, p.value);
      states_.push_back(std::move(state));
    }
    parameters_changed();
  }
  void step(AdamWStep step) override {
    Arena& scratch = model_.scratch();
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const ArenaScope scope(scratch);
      const Parameter& p = model_.parameters()[i];
      const State& s = states_[i];
      // Where the model reads the master itself, nobody wants its values in F32.
      const Tensor values = p.in_half() ? scratch.allocate(DType::F32, {p.value.numel()}) : p.value;
      adamw_fp8_step(values, gradient_of(p, scratch), master(i), s.m.view(), s.v.view(), with_decay(step, p), scratch);
    }
  }
  void visit(const std::function<void(const StateTensor&)>& f) const override {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const std::string& name = model_.parameters()[i].name;
      for (const auto& [suffix, state] :
           {std::pair{".master", master(i)}, {".m", states_[i].m.view()}, {".v", states_[i].v.view()}}) {
        f(StateTensor::of(name + suffix, state.data));
        f(StateTensor::of(name + suffix + ".scale_inv", state.scale_inv));
      }
    }
  }
  // The model computes with what the FP16 master stores.
  void parameters_changed() override {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const Parameter& p = model_.parameters()[i];
      if (p.in_half()) continue;
      scaled_store(p.value, master(i));
      scaled_load(master(i), p.value);
    }
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
  ScaledTensor master(std::size_t i) const {
    return states_[i].master ? states_[i].master->view() : model_.parameters()[i].half;
  }

  Llama& model_;
  std::vector<State> states_;
};

}  // namespace

std::size_t Optimizer::bytes() const {
  std::size_t total = 0;
  visit([&](const StateTensor& state) { total += state.rows.bytes(); });
  return total;
}

ParameterStorage storage_for(OptimizerKind kind, DType gradients, int ranks) {
  return {.half_weights = kind == OptimizerKind::AdamWFp8, .gradients = gradients, .pieces = ranks};
}

std::unique_ptr<Optimizer> make_optimizer(OptimizerKind kind, Llama& model) {
  if (kind == OptimizerKind::AdamWFp8) return std::make_unique<AdamWFp8>(model);
  return std::make_unique<AdamWFp32>(model);
}

}  // namespace nibble
