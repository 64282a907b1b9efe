#include "nibble/recipe/weight_gather.h"

#include "nibble/quant/quantize.h"
#include "nibble/recipe/names.h"
#include "nibble/recipe/row_gather.h"

namespace nibble {

namespace {

bool takes_moments(ScaleRule rule) {
  switch (rule) {
    case ScaleRule::QuestFloor:
    case ScaleRule::QuestNearest:
    case ScaleRule::QuestCeil:
    case ScaleRule::QuestExact:
    case ScaleRule::Sawb: return true;
    default: return false;
  }
}

bool uses_dge(const LinearRecipe& recipe) { return recipe.weight_gradient.estimator == WeightGradient::Estimator::Dge; }

/// Whether dgrad.w is quantised from W in every pass.
bool every_pass(const LinearRecipe& recipe) {
  const OperandSpec& w = recipe[Operand::DgradW];
  return w.source == OperandSource::HighPrecision && w.quant.hadamard.signs == Hadamard::Signs::Call;
}

/// One layer's plan in the making.
class Plan {
 public:
  Plan(const LinearRecipe& recipe, const RowPieces& pieces, std::int64_t k, WeightUse use, std::int64_t outliers)
      : recipe_(recipe),
        pieces_(pieces),
        k_(k),
        outliers_(outliers),
        backward_(use != WeightUse::Forward),
        needs_(weight_needs(recipe, use, outliers)) {
    begin();
  }

  WeightGather gather(bool measured) {
    if (pieces_.ranks() == 1) return plan_;
    if (measured) wants_weight(false, "measured against W");
    if (backward_ && uses_dge(recipe_)) {
      wants_weight(fprop().bf16_input && !fprop().hadamard.enabled(), "DGE reads W");
    }
    if (backward_ && every_pass(recipe_)) wants_weight(dgrad().bf16_input, "signs are drawn for every pass");
    if (needs_.fprop && !by_pieces(fprop())) wants_weight(fprop().bf16_input, "fprop.w can't be quantised by rows");
    if (needs_.dgrad && !by_pieces(dgrad())) wants_weight(dgrad().bf16_input, "dgrad.w can't be quantised by rows");
    if (needs_.outliers && !by_pieces(outlier())) {
      wants_weight(outlier().bf16_input, "outlier channels can't be quantised by rows");
    }
    if (!plan_.weight.has_value()) as_codes();
    if (!plan_.weight.has_value()) return plan_;
    if (needs_f32()) plan_.weight = DType::F32;
    from_weight();
    return plan_;
  }

 private:
  void begin() {
    plan_ = {};
    plan_.bf16_bytes = received(2 * k_);
  }
  const QuantSpec& fprop() const { return recipe_[Operand::FpropW].quant; }
  const QuantSpec& dgrad() const { return recipe_[Operand::DgradW].quant; }
  const QuantSpec& outlier() const { return recipe_.outlier_channels.quant; }
  bool by_pieces(const QuantSpec& spec) const { return quantises_by_pieces(spec, pieces_); }
  /// A rounding of W that a rounding of BF16(W) equals.
  static bool unrotated_bf16(const QuantSpec& spec) {
    return spec.element == ElementFormat::BF16 && !spec.hadamard.enabled() && !spec.clamp.enabled();
  }
  /// Whether some operand is quantised from more than BF16(W).
  bool needs_f32() const {
    const auto narrow = [](const QuantSpec& spec) { return spec.bf16_input || unrotated_bf16(spec); };
    return (needs_.fprop && !narrow(fprop())) || (needs_.dgrad && !narrow(dgrad())) ||
           (needs_.outliers && !narrow(outlier()));
  }
  std::int64_t received(std::int64_t bytes_of_row) const {
    return (pieces_.ranks() - 1) * pieces_.piece() * bytes_of_row;
  }

  void wants_weight(bool in_bf16, const char* reason) {
    if (!plan_.weight.has_value()) plan_.weight = DType::BF16;
    if (!in_bf16) plan_.weight = DType::F32;
    if (plan_.reason.empty()) plan_.reason = reason;
  }

  void add_codes(const char* what, const QuantSpec& spec, std::int64_t cols) {
    const std::string element = name_of(element_names(), spec.element);
    plan_.parts.push_back({what, has_scale(spec.element) ? element + " codes" : element,
                           (pieces_.ranks() - 1) * RowGather::piece_bytes(spec, pieces_, cols)});
  }

  void as_codes() {
    if (needs_.fprop) {
      plan_.fprop = true;
      add_codes("fprop.w", fprop(), k_);
    }
    if (needs_.dgrad) {
      plan_.dgrad = true;
      add_codes("dgrad.w", dgrad(), k_);
    }
    if (needs_.outliers) {
      plan_.outliers = true;
      add_codes("outlier channels", outlier(), outliers_);
    }
    if (needs_.residual && !(unrotated_bf16(fprop()) && outliers_ == 0)) {
      plan_.bf16_rows = true;
      plan_.parts.push_back({"rows for the residual", "bf16", received(2 * k_)});
    }
    if (plan_.bytes() <= received((needs_f32() ? 4 : 2) * k_)) return;
    begin();
    wants_weight(true, "codes take more bytes");
  }

  void from_weight() {
    const bool f32 = *plan_.weight == DType::F32;
    plan_.parts.push_back({"weight", f32 ? "f32" : "bf16", received((f32 ? 4 : 2) * k_)});
    if (!needs_.fprop || fprop().rounding != Rounding::Reference) return;
    // What W is rounded towards stays with its rows, where codes can be made of them.
    if (by_pieces(fprop())) {
      plan_.fprop = true;
      add_codes("fprop.w", fprop(), k_);
    } else {
      plan_.average = true;
      plan_.parts.push_back({"weight average", "f32", received(4 * k_)});
    }
  }

  const LinearRecipe& recipe_;
  const RowPieces& pieces_;
  std::int64_t k_;
  std::int64_t outliers_;
  bool backward_;
  WeightNeeds needs_;
  WeightGather plan_;
};

}  // namespace

std::int64_t WeightGather::bytes() const {
  std::int64_t sum = 0;
  for (const Part& part : parts) sum += part.bytes;
  return sum;
}

WeightNeeds weight_needs(const LinearRecipe& recipe, WeightUse use, std::int64_t outlier_channels) {
  const bool forward = use != WeightUse::Backward;
  const bool backward = use != WeightUse::Forward;
  const bool of_fprop = recipe[Operand::DgradW].source != OperandSource::HighPrecision;
  WeightNeeds needs;
  needs.fprop = forward || of_fprop || uses_dge(recipe) || recipe[Operand::FpropW].quant.trust_mask;
  needs.dgrad = backward && !of_fprop && !every_pass(recipe);
  needs.requantised = backward && recipe[Operand::DgradW].source == OperandSource::Requantise &&
                      recipe[Operand::DgradW].quant.hadamard.signs != Hadamard::Signs::Call;
  needs.outliers = outlier_channels > 0 && (forward || of_fprop);
  needs.residual = forward && recipe[Operand::FpropX].quant.clamp.residual == ResidualMode::Sparse;
  return needs;
}

std::array<std::int64_t, 3> weight_magnitudes(const LinearRecipe& recipe, const RowPieces& pieces, std::int64_t k,
                                              std::int64_t outlier_channels) {
  const auto count = [&](bool needed, const QuantSpec& spec, std::int64_t cols) {
    return needed && pieces.ranks() > 1 && quantises_by_pieces(spec, pieces) ? shared_amaxes(spec, cols) : 0;
  };
  const WeightNeeds needs = weight_needs(recipe, WeightUse::Both, outlier_channels);
  return {count(true, recipe[Operand::FpropW].quant, k), count(needs.dgrad, recipe[Operand::DgradW].quant, k),
          count(needs.outliers, recipe.outlier_channels.quant, outlier_channels)};
}

WeightGather weight_gather(const LinearRecipe& recipe, const RowPieces& pieces, std::int64_t k, WeightUse use,
                           std::int64_t outlier_channels, bool measured) {
  return Plan(recipe, pieces, k, use, outlier_channels).gather(measured);
}

bool quantises_by_pieces(const QuantSpec& spec, const RowPieces& pieces) {
  const bool one_has_all = pieces.piece() >= pieces.rows();
  const auto whole = [&](std::int64_t along) { return one_has_all || along <= 1 || pieces.piece() % along == 0; };
  if (spec.element == ElementFormat::F32 || spec.carrier != ElementFormat::BF16) return false;
  if (spec.clamp.enabled() && (spec.transposed || !spec.clamp.per_row || spec.clamp.residual != ResidualMode::None)) {
    return false;
  }
  if (spec.transposed && spec.hadamard.enabled() && !whole(spec.hadamard.group)) return false;
  if (!has_scale(spec.element)) return true;
  const std::int64_t along = spec.transposed ? spec.granularity.cols : spec.granularity.rows;
  if (along == 0) {
    // One maximum is all that such scales share: not moments, nor the two levels of Nvfp4.
    return !takes_moments(spec.scale) && spec.scale != ScaleRule::Nvfp4 && !spec.clamp.enabled();
  }
  if (spec.scale == ScaleRule::Nvfp4 && spec.nvfp4.outer == 0 && spec.clamp.enabled()) return false;
  if (!whole(along)) return false;
  if (!spec.transposed) return true;
  return whole(spec.scale == ScaleRule::Nvfp4 ? spec.nvfp4.outer : 0) &&
         whole(spec.rounding == Rounding::Eden ? spec.eden_group : 0);
}

}  // namespace nibble
