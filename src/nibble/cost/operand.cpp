#include "nibble/cost/operand.h"

#include <algorithm>
#include <cmath>

#include "nibble/tensor/error.h"

namespace nibble {

namespace {

/// Partial sums over so many elements are promoted to F32 at little cost, as FP8 products with block scales do.
constexpr std::int64_t kPromotedBlock = 128;

bool is_fp8(ElementFormat e) { return e == ElementFormat::E4M3 || e == ElementFormat::E5M2; }
bool is_quantised(ElementFormat e) { return is_four_bit(e) || is_fp8(e); }
bool is_fused(const QuantSpec& spec) { return spec.clamp.enabled() && spec.clamp.residual == ResidualMode::Fused; }
bool leaves_sum(const OperandForm& f) { return f.block == 0 || (f.block >= kPromotedBlock && f.outer == 0); }
bool is_mx(const OperandForm& f) { return f.block == 32 && f.scale == ScaleFormat::E8M0; }
bool is_nv(const OperandForm& f) {
  return f.block == 16 && f.scale == ScaleFormat::UE4M3 && (f.outer == 0 || f.outer >= kPromotedBlock);
}

/// Contraction runs along the rows of the stored source X, W, dY [T, K], [N, K], [T, N].
bool contracts_rows(Operand operand) {
  return operand == Operand::DgradW || operand == Operand::WgradDy || operand == Operand::WgradX;
}

Operand partner_dy(Operand operand) { return operand == Operand::DgradW ? Operand::DgradDy : Operand::WgradDy; }

ProductPath cpu_path(const OperandForm& a, const OperandForm& b, const DeviceSpec& device) {
  const std::int64_t block = std::max(a.block, b.block) == 0   ? 0
                             : std::min(a.block, b.block) == 0 ? std::max(a.block, b.block)
                                                               : std::min(a.block, b.block);
  if (is_four_bit(a.element) && is_four_bit(b.element) && device.has(Unit::Int8) && (block == 0 || block >= 16)) {
    if (block == 0) return {Unit::Int8, 1, "codes as int8, scales in the epilogue"};
    // Against whole-contraction sums, int8 products with a partial sum a block reach about half (32) and less (16).
    return {Unit::Int8, block >= 32 ? 0.55 : 0.45, "codes as int8, one int32 sum a block"};
  }
  if (!is_quantised(a.element) && !is_quantised(b.element)) return {device.high_precision(), 1, "as they are"};
  return {device.high_precision(), 1, "decoded"};
}

}  // namespace

const char* product_name(Product product) {
  constexpr const char* kNames[] = {"fprop", "dgrad", "wgrad"};
  return kNames[static_cast<std::size_t>(product)];
}

std::array<Operand, 2> operands_of(Product product) {
  switch (product) {
    case Product::Fprop: return {Operand::FpropX, Operand::FpropW};
    case Product::Dgrad: return {Operand::DgradDy, Operand::DgradW};
    case Product::Wgrad: break;
  }
  return {Operand::WgradDy, Operand::WgradX};
}

const QuantSpec& effective_spec(const LinearRecipe& recipe, Operand operand) {
  if (recipe[operand].source != OperandSource::Fprop) return recipe[operand].quant;
  return recipe[operand == Operand::DgradW ? Operand::FpropW : Operand::FpropX].quant;
}

OperandForm operand_form(const LinearRecipe& recipe, Operand operand) {
  const QuantSpec& spec = effective_spec(recipe, operand);
  OperandForm form;
  if (spec.carrier != ElementFormat::BF16) {
    form.element = spec.carrier;
    form.scale = ScaleFormat::F32;
    return form;
  }
  if (spec.clamp.enabled() && spec.clamp.residual == ResidualMode::Dense) return form;
  form.element = is_fused(spec) ? ElementFormat::E4M3 : spec.element;
  if (!has_scale(spec.element)) return form;
  form.scale = scale_format(spec.scale);
  if (form.scale == ScaleFormat::UE4M3) form.outer = spec.nvfp4.outer;
  const bool along_rows = contracts_rows(operand) != spec.transposed;
  form.block = along_rows ? spec.granularity.rows : spec.granularity.cols;
  const bool is_partner = operand == Operand::DgradW || operand == Operand::WgradX;
  if (form.block == 1 && is_partner && recipe[partner_dy(operand)].fold_partner_scales) form.block = 0;
  return form;
}

ProductPath product_path(const LinearRecipe& recipe, Product product, const DeviceSpec& device) {
  const auto [left, right] = operands_of(product);
  const OperandForm a = operand_form(recipe, left);
  const OperandForm b = operand_form(recipe, right);
  if (a.element == ElementFormat::F32 || b.element == ElementFormat::F32) return {Unit::F32, 1, "FP32 operands"};
  if (device.is_cpu) return cpu_path(a, b, device);
  if (!is_quantised(a.element) && !is_quantised(b.element)) return {Unit::Bf16, 1, "as they are"};
  if (!is_quantised(a.element) || !is_quantised(b.element)) return {Unit::Bf16, 1, "one operand is BF16"};

  const auto fp4_form = [](const OperandForm& f) {
    return f.element == ElementFormat::E2M1 && (leaves_sum(f) || is_mx(f) || is_nv(f));
  };
  const bool one_scaling = !((is_mx(a) && is_nv(b)) || (is_nv(a) && is_mx(b)));
  if (device.has(Unit::Fp4) && fp4_form(a) && fp4_form(b) && one_scaling) {
    return {Unit::Fp4, 1,
            leaves_sum(a) && leaves_sum(b) ? "FP4 tensor cores, scales in the epilogue" : "FP4 tensor cores"};
  }
  const bool micro = device.has(Unit::Fp4);  // block scales of 32 in hardware
  const auto blocks128 = [](const OperandForm& f) { return f.scale == ScaleFormat::F32 && f.block == 128; };
  if (device.has(Unit::Fp8) && !micro && blocks128(a) && blocks128(b)) {
    return {Unit::Fp8, 1, "FP8 tensor cores, sums of 128 scaled in F32"};
  }
  const auto fp8_form = [&](const OperandForm& f) {
    return leaves_sum(f) || (is_mx(f) && (micro || f.element == ElementFormat::E2M1));
  };
  if (device.has(Unit::Fp8) && fp8_form(a) && fp8_form(b)) {
    const bool four = is_four_bit(a.element) || is_four_bit(b.element);
    if (!micro && (is_mx(a) || is_mx(b))) return {Unit::Fp8, 1, "code x 2^e in E4M3, with a range check", true};
    if (four && is_fp8(a.element) == is_fp8(b.element)) return {Unit::Fp8, 1, "four-bit codes are exact in E4M3"};
    return {Unit::Fp8, 1, four ? "FP4 codes as FP8" : "FP8 tensor cores"};
  }
  if (is_nv(a) || is_nv(b)) return {Unit::Bf16, 1, "FP4 code x E4M3 scale is exact in BF16 only"};
  return {Unit::Bf16, 1, a.block == 1 || b.block == 1 ? "a scale for every element of the sum: decoded" : "decoded"};
}

int product_bits(const LinearRecipe& recipe, Product product) {
  int bits = 0;
  for (const Operand operand : operands_of(product)) {
    const QuantSpec& spec = effective_spec(recipe, operand);
    const bool dense = spec.clamp.enabled() && spec.clamp.residual == ResidualMode::Dense;
    bits = std::max(bits, dense ? 16 : is_fused(spec) ? element_bits(ElementFormat::E4M3) : element_bits(spec.element));
  }
  return bits;
}

double quantise_ops(const QuantSpec& spec) {
  if (!has_scale(spec.element)) return 0;
  const bool stochastic = is_stochastic(spec.rounding);
  double ops = 2 + 1 + (stochastic ? 6 : 2);
  if (spec.hadamard.enabled()) ops += std::log2(static_cast<double>(spec.hadamard.group)) + 1;
  if (spec.clamp.enabled()) ops += 4;
  if (spec.nvfp4.selection != Selection::None) ops += 8;
  if (spec.rounding == Rounding::Eden) ops += 4;
  if (spec.carrier != ElementFormat::BF16) ops += 3;
  return ops;
}

double residual_density(const LinearRecipe& recipe) {
  const Clamp& clamp = recipe[Operand::FpropX].quant.clamp;
  return clamp.enabled() && clamp.residual == ResidualMode::Sparse ? 2 * (1 - clamp.alpha) : 0;
}

double outlier_columns(const LinearRecipe& recipe, std::int64_t inputs) {
  if (!recipe.outlier_channels.enabled()) return 0;
  const auto multiple = static_cast<double>(std::max<std::int64_t>(recipe.outlier_channels.multiple, 1));
  const double wanted = std::ceil(recipe.outlier_channels.share * static_cast<double>(inputs));
  return std::min(std::ceil(wanted / multiple) * multiple, static_cast<double>(inputs));
}

std::vector<StageShare> stage_shares(const Recipe& recipe, double monitored_from) {
  std::vector<double> begin;
  for (const Stage& stage : recipe.stages) {
    const double at = stage.monitor == Stage::Monitor::None ? stage.from : std::max(stage.from, monitored_from);
    begin.push_back(std::clamp(std::max(at, begin.empty() ? 0.0 : begin.back()), 0.0, 1.0));
  }
  require(!begin.empty(), "recipe '{}' has no stage", recipe.name);
  begin.front() = 0;
  std::vector<StageShare> shares;
  for (std::size_t s = 0; s < begin.size(); ++s) {
    const double end = s + 1 < begin.size() ? begin[s + 1] : 1.0;
    if (end > begin[s]) shares.push_back({s, end - begin[s]});
  }
  return shares;
}

Recipe reference_fp8() {
  Recipe recipe = unquantised_recipe(ElementFormat::BF16);
  recipe.name = "fp8 (one scale a tensor)";
  LinearRecipe& linear = recipe.stages.front().linear.back();
  for (const Operand operand : kAllOperands) {
    QuantSpec spec;
    const bool gradient = operand == Operand::DgradDy || operand == Operand::WgradDy;
    spec.element = gradient ? ElementFormat::E5M2 : ElementFormat::E4M3;
    spec.granularity = Granularity::per_tensor();
    spec.scale = ScaleRule::Absmax;
    linear[operand].quant = spec;
  }
  linear[Operand::DgradW].source = OperandSource::Fprop;
  linear[Operand::WgradX].source = OperandSource::Fprop;
  return recipe;
}

}  // namespace nibble
