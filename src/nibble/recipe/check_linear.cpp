// What must hold between the operands of a linear layer, and what a claim of unbiasedness excludes.
#include "nibble/recipe/linear_table.h"
#include "nibble/recipe/names.h"

namespace nibble {

namespace {

class Check {
 public:
  explicit Check(const WrittenLinear& linear) : linear_(linear), r_(linear.recipe) {}

  void combinations() const {
    for (const Operand dy : {Operand::DgradDy, Operand::WgradDy}) fold(dy);
    for (const Operand left : {Operand::FpropX, Operand::DgradDy, Operand::WgradDy}) transforms(left);
    requantised(Operand::DgradW);
    requantised(Operand::WgradX);
    residual();
    estimator();
    average();
    reset();
    outliers();
  }

  void unbiased() const {
    for (const Operand o : {Operand::DgradDy, Operand::DgradW, Operand::WgradDy, Operand::WgradX}) {
      if (r_[o].source != OperandSource::Fprop && has_scale(r_[o].quant.element)) unbiased(o, r_[o].quant);
    }
  }

 private:
  [[noreturn]] void fail(const Written& where, const std::string& key, const std::string& message) const {
    where.fail(key, message + linear_.context);
  }

  /// What is multiplied in the place of dgrad.w or wgrad.x.
  const QuantSpec& effective(Operand o) const {
    return r_[o].source == OperandSource::Fprop ? r_[fprop_counterpart(o)].quant : r_[o].quant;
  }

  /// Folding needs the partner's scales to be one F32 vector along the contraction.
  void fold(Operand dy) const {
    if (!r_[dy].fold_partner_scales) return;
    if (r_[dy].quant.hadamard.enabled()) {
      fail(linear_.at(dy), "fold_partner_scales",
           "cannot go with a transform of dY, which mixes what has other scales");
    }
    const Operand partner = partner_of(dy);
    const QuantSpec& p = effective(partner);
    if (!has_scale(p.element) || scale_format(p.scale) != ScaleFormat::F32 || p.granularity != Granularity::per_row() ||
        p.transposed || p.carrier != ElementFormat::BF16 || p.clamp.residual == ResidualMode::Dense) {
      fail(linear_.at(dy), "fold_partner_scales",
           fmt::format("needs {} to have one absmax scale a row and no carrier", operand_name(partner)));
    }
  }

  /// (A R)(B R)^T = A B^T needs the same R at both sides. What fprop quantised has none along another contraction.
  void transforms(Operand left) const {
    const Operand right = partner_of(left);
    const Hadamard& a = r_[left].quant.hadamard;
    const Hadamard b = r_[right].source == OperandSource::Fprop ? Hadamard{} : r_[right].quant.hadamard;
    if (a == b) return;
    const bool blame_left = a.enabled();
    const Operand with = blame_left ? left : right;
    const Operand without = blame_left ? right : left;
    const bool both = a.enabled() && b.enabled();
    fail(linear_.at(with), "hadamard",
         both ? fmt::format("differs from that of {}: the two operands of a product need the same group, signs and "
                            "order, or the transforms do not cancel",
                            operand_name(without))
              : fmt::format("needs the same transform of {}, or it does not cancel in the product{}",
                            operand_name(without),
                            r_[without].source == OperandSource::Fprop
                                ? "; with source = \"fprop\" there is none along this contraction"
                                : ""));
  }

  void requantised(Operand o) const {
    if (r_[o].source != OperandSource::Requantise) return;
    if (r_[o].quant.bf16_input) {
      fail(linear_.at(o), "bf16_input", "is for tensors; with source = \"requantise\" the input is quantised already");
    }
  }

  void residual() const {
    if (r_[Operand::FpropX].quant.clamp.residual == ResidualMode::Sparse && r_.residual_in_wgrad &&
        r_[Operand::WgradX].source == OperandSource::HighPrecision) {
      fail(
          linear_.at(Operand::WgradX), "source",
          "'high-precision' is X with its residual, which wgrad then must not add once more: write residual = false in "
          "[weight_gradient]");
    }
    if (r_[Operand::FpropX].quant.clamp.residual == ResidualMode::Fused && !r_.residual_in_wgrad &&
        r_[Operand::WgradX].source != OperandSource::HighPrecision) {
      fail(linear_.weight_gradient, "residual",
           "= false leaves X's residual out of wgrad, but wgrad.x takes fprop's elements, and a fused residual is in "
           "them: write \"sparse\" in fprop.x, or residual = true");
    }
  }

  void estimator() const {
    if (r_.weight_gradient.estimator != WeightGradient::Estimator::Dge) return;
    const QuantSpec& w = r_[Operand::FpropW].quant;
    if (w.element != ElementFormat::E2M1) {
      fail(linear_.weight_gradient, "estimator",
           "dge is the derivative of E2M1 rounding: fprop.w must have element = \"e2m1\"");
    }
  }

  void average() const {
    const bool reference = r_[Operand::FpropW].quant.rounding == Rounding::Reference;
    if (reference && !r_.weight_average.enabled()) {
      fail(linear_.at(Operand::FpropW), "rounding",
           "'reference' rounds towards the average of the weight: add a table [weight_average]");
    }
    if (!reference && r_.weight_average.enabled()) {
      fail(linear_.weight_average, "decay", "nothing reads the average: fprop.w needs rounding = \"reference\"");
    }
  }

  void outliers() const {
    if (!r_.outlier_channels.enabled()) return;
    const auto refuse = [&](const char* why) { fail(linear_.outlier_channels, "share", why); };
    if (!has_scale(r_[Operand::FpropX].quant.element)) {
      refuse("outlier channels are kept apart from a quantised fprop.x, which is not");
    }
    if (r_[Operand::FpropX].quant.hadamard.enabled()) {
      refuse("outlier channels cannot go with a transform of fprop.x, which mixes the channels");
    }
    if (r_[Operand::DgradDy].fold_partner_scales) {
      refuse("outlier channels cannot go with scales folded into dgrad.dy: they need dY without them");
    }
  }

  void reset() const {
    if (!r_.oscillation_reset.enabled()) return;
    const QuantSpec& w = r_[Operand::FpropW].quant;
    if (!is_four_bit(w.element)) {
      fail(linear_.oscillation_reset, "threshold", "watches the rounding of fprop.w, which is not a 4-bit operand");
    }
    if (w.hadamard.signs == Hadamard::Signs::Step && w.hadamard.enabled()) {
      fail(linear_.oscillation_reset, "threshold",
           "watches fprop.w from step to step, whose transform has other signs each step: write signs = \"plus\"");
    }
    if (r_.oscillation_reset.criterion == OscillationReset::Criterion::Edge &&
        (w.element != ElementFormat::E2M1 || w.carrier != ElementFormat::BF16 ||
         w.clamp.residual == ResidualMode::Fused)) {
      fail(linear_.oscillation_reset, "criterion", "'edge' goes by the bins of e2m1, and fprop.w has others");
    }
  }

  [[noreturn]] void biased(Operand o, const char* key, const std::string& why) const {
    fail(linear_.at(o), key, fmt::format("{}, but the recipe says unbiased_gradient = true", why));
  }

  void unbiased(Operand o, const QuantSpec& q) const {
    const char* rounding = name_of(rounding_names(), q.rounding);
    const char* scale = name_of(scale_names(), q.scale);
    if (q.nvfp4.selection != Selection::None) {
      biased(o, "nvfp4", "four-over-six chooses by error, which biases even stochastic rounding");
    }
    if (!is_stochastic(q.rounding)) biased(o, "rounding", fmt::format("'{}' is biased", rounding));
    if (q.rounding == Rounding::Stochastic8) {
      biased(o, "rounding",
             "'stochastic-8bit' rounds up a little too seldom: its mean is low by up to 1/256 of a step");
    }
    switch (q.scale) {
      case ScaleRule::OcpFloor:
      case ScaleRule::Nearest6:
      case ScaleRule::QuestFloor:
      case ScaleRule::QuestNearest:
      case ScaleRule::QuestCeil:
      case ScaleRule::QuestExact:
      case ScaleRule::Sawb: biased(o, "scale", fmt::format("'{}' clips, and what is clipped biases", scale));
      default: break;
    }
    if (q.clamp.enabled()) biased(o, "clamp", "a clamp biases");
    if (q.carrier != ElementFormat::BF16) biased(o, "carrier", "the carrier rounds to nearest");
    if (q.rounding == Rounding::Eden) {
      const bool random = q.hadamard.enabled() && !q.hadamard.signs_last &&
                          (q.hadamard.signs == Hadamard::Signs::Step || q.hadamard.signs == Hadamard::Signs::Call);
      if (!random) biased(o, "rounding", "'eden' is unbiased only under a randomised Hadamard transform");
    } else if (q.scale == ScaleRule::Nvfp4 && q.nvfp4.val_max > 6.0 * 16 / 17) {
      biased(o, "nvfp4",
             "an E4M3 scale that rounds down clips the block's maximum unless val_max is at most \"96/17\"");
    }
  }

  const WrittenLinear& linear_;
  const LinearRecipe& r_;
};

}  // namespace

void check_linear(const WrittenLinear& linear, bool unbiased) {
  const Check check(linear);
  check.combinations();
  if (unbiased) check.unbiased();
}

}  // namespace nibble
