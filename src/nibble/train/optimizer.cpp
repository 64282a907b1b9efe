#include "nibble/train/optimizer.h"

#include <vector>

#include "nibble/tensor/device.h"

namespace nibble {

namespace {

AdamWStep with_decay(AdamWStep step, const Parameter& parameter) {
  if (!parameter.decay) step.weight_decay = 0;
  return step;
}

class AdamWFp32 final : public Optimizer {
 public:
  explicit AdamWFp32(Llama& model) : model_(model) {
    for (const Parameter& p : model.parameters()) {
      m_.emplace_back(DType::F32, p.value.shape(), model.device());
      v_.emplace_back(DType::F32, p.value.shape(), model.device());
    }
  }
  void step(AdamWStep step) override {
    for (std::size_t i = 0; i < m_.size(); ++i) {
      const Parameter& p = model_.parameters()[i];
      adamw_step(p.value, p.grad, m_[i], v_[i], with_decay(step, p));
    }
  }
  void visit(const std::function<void(const std::string&, const Tensor&)>& f) const override {
    for (std::size_t i = 0; i < m_.size(); ++i) {
      const std::string& name = model_.parameters()[i].name;
      f(name + ".m", m_[i]);
      f(name + ".v", v_[i]);
    }
  }

 private:
  Llama& model_;
  std::vector<OwnedTensor> m_, v_;
};

class AdamWFp8 final : public Optimizer {
 public:
  explicit AdamWFp8(Llama& model) : model_(model), scratch_(model.device()) {
    for (const Parameter& p : model.parameters()) {
      states_.push_back({Scaled(DType::F16, p.value), Scaled(DType::U8, p.value), Scaled(DType::F16, p.value)});
    }
    parameters_changed();
  }
  void step(AdamWStep step) override {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const Parameter& p = model_.parameters()[i];
      const State& s = states_[i];
      adamw_fp8_step(p.value, p.grad, s.master.view(), s.m.view(), s.v.view(), with_decay(step, p), scratch_);
      scratch_.rewind({});
    }
  }
  void visit(const std::function<void(const std::string&, const Tensor&)>& f) const override {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const std::string& name = model_.parameters()[i].name;
      for (const auto& [suffix, state] :
           {std::pair{".master", &states_[i].master}, {".m", &states_[i].m}, {".v", &states_[i].v}}) {
        f(name + suffix, state->data);
        f(name + suffix + ".scale_inv", state->scale_inv);
      }
    }
  }
  // The model computes with what the FP16 master stores.
  void parameters_changed() override {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      scaled_store(model_.parameters()[i].value, states_[i].master.view());
      scaled_load(states_[i].master.view(), model_.parameters()[i].value);
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
    Scaled master, m, v;
  };
  Llama& model_;
  std::vector<State> states_;
  Arena scratch_;
};

}  // namespace

std::size_t Optimizer::bytes() const {
  std::size_t total = 0;
  visit([&](const std::string&, const Tensor& tensor) { total += tensor.bytes(); });
  return total;
}

std::unique_ptr<Optimizer> make_optimizer(OptimizerKind kind, Llama& model) {
  if (kind == OptimizerKind::AdamWFp8) return std::make_unique<AdamWFp8>(model);
  return std::make_unique<AdamWFp32>(model);
}

}  // namespace nibble
