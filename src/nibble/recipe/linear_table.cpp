#include "nibble/recipe/linear_table.h"

#include "nibble/recipe/names.h"
#include "nibble/recipe/operand_table.h"

namespace nibble {

namespace {

constexpr const char* kProducts[] = {"fprop", "dgrad", "wgrad"};

WeightGradient parse_weight_gradient(const ConfigTable& table, bool& residual) {
  WeightGradient gradient;
  using Estimator = WeightGradient::Estimator;
  gradient.estimator = table.choice("estimator", Estimator::StraightThrough,
                                    {{"ste", Estimator::StraightThrough}, {"dge", Estimator::Dge}});
  if (gradient.estimator == Estimator::Dge) {
    gradient.k = static_cast<float>(table.number("k", 5, 1, 100));
    gradient.clip = static_cast<float>(table.number("clip", 3, 0.01, 1e6));
  }
  residual = table.boolean("residual", true);
  table.finish();
  return gradient;
}

OutlierChannels parse_outlier_channels(const ConfigTable& table) {
  OutlierChannels outliers;
  outliers.share = table.number("share", 0.1, 0, 1);
  outliers.multiple = table.integer("multiple", 128, 1, 65536);
  outliers.first_step = table.integer("first_step", 501, 1, 1'000'000'000);
  outliers.last_step = table.integer("last_step", 550, 1, 1'000'000'000);
  if (outliers.last_step < outliers.first_step) {
    table.fail("last_step", fmt::format("is {}, before first_step = {}", outliers.last_step, outliers.first_step));
  }
  outliers.quant = parse_wider_format(table);
  table.finish();
  return outliers;
}

WeightAverage parse_weight_average(const ConfigTable& table) {
  WeightAverage average;
  average.decay = table.number("decay", 0.9972, 0, 1);
  if (average.decay >= 1) table.fail("decay", "must be below 1");
  average.start_step = table.integer("start_step", 10, 0, 1'000'000'000);
  table.finish();
  return average;
}

OscillationReset parse_oscillation_reset(const ConfigTable& table) {
  OscillationReset reset;
  using Criterion = OscillationReset::Criterion;
  reset.criterion = table.choice("criterion", Criterion::Ratio, criterion_names());
  const bool ratio = reset.criterion == Criterion::Ratio;
  reset.threshold = ratio ? table.number("threshold", 8, 0, 1e6) : table.number("threshold", 0.495, 0, 0.5);
  reset.start_fraction = table.number("start_fraction", 0.65, 0, 1);
  reset.period = table.integer("period", 200, 1, 1'000'000'000);
  reset.window = table.integer("window", 50, 1, 1'000'000'000);
  if (reset.window > reset.period) {
    table.fail("window", fmt::format("is {}, longer than period = {}", reset.window, reset.period));
  }
  table.finish();
  return reset;
}

const std::vector<std::pair<const char*, ElementFormat>> kUnquantised = {{"bf16", ElementFormat::BF16},
                                                                         {"f32", ElementFormat::F32}};

OperandSpec unquantised(ElementFormat element) {
  OperandSpec spec;
  spec.quant.element = element;
  return spec;
}

void unquantise_forward(WrittenLinear& linear, const ConfigTable& table) {
  const OperandSpec spec = unquantised(table.choice("forward", ElementFormat::BF16, kUnquantised));
  LinearRecipe& r = linear.recipe;
  const Written here{table, "forward"};
  for (const Operand o : {Operand::FpropX, Operand::FpropW}) {
    r[o] = spec;
    linear.operands[static_cast<std::size_t>(o)] = here;
  }
  for (const Operand dy : {Operand::DgradDy, Operand::WgradDy}) {
    if (r[partner_of(dy)].source == OperandSource::Fprop) r[dy].fold_partner_scales = false;
  }
  r.weight_gradient = {};
  r.residual_in_wgrad = true;
  r.outlier_channels = {};
  r.weight_average = {};
  r.oscillation_reset = {};
}

void unquantise_backward(WrittenLinear& linear, const ConfigTable& table) {
  const OperandSpec spec = unquantised(table.choice("backward", ElementFormat::BF16, kUnquantised));
  for (const Operand o : {Operand::DgradDy, Operand::DgradW, Operand::WgradDy, Operand::WgradX}) {
    linear.recipe[o] = spec;
    linear.operands[static_cast<std::size_t>(o)] = {table, "backward"};
  }
  linear.recipe.residual_in_wgrad = false;  // X itself holds it
}

}  // namespace

WrittenLinear unwritten_linear(const ConfigTable& root) {
  const Written w{root, ""};
  return {{}, {w, w, w, w, w, w}, w, w, w, w, ""};
}

void override_linear(WrittenLinear& linear, const ConfigTable& table, bool shorthands) {
  if (shorthands && table.has("forward")) unquantise_forward(linear, table);
  if (shorthands && table.has("backward")) unquantise_backward(linear, table);
  for (std::size_t p = 0; p < std::size(kProducts); ++p) {
    if (!table.has(kProducts[p])) continue;
    const ConfigTable product = table.table(kProducts[p]);
    for (const std::size_t i : {2 * p, 2 * p + 1}) {
      const std::string name = operand_name(kAllOperands[i]);
      const std::string key = name.substr(name.find('.') + 1);
      if (!product.has(key)) continue;
      linear.operands[i] = {product.table(key), ""};
      linear.recipe.operands[i] = parse_operand(linear.operands[i].table, kAllOperands[i]);
    }
    product.finish();
  }
  LinearRecipe& r = linear.recipe;
  const auto sub = [&](const char* key, Written& written) {
    const bool present = table.has(key);
    if (present) written = {table.table(key), ""};
    return present;
  };
  if (sub("weight_gradient", linear.weight_gradient)) {
    r.weight_gradient = parse_weight_gradient(linear.weight_gradient.table, r.residual_in_wgrad);
  }
  if (sub("outlier_channels", linear.outlier_channels)) {
    r.outlier_channels = parse_outlier_channels(linear.outlier_channels.table);
  }
  if (sub("weight_average", linear.weight_average)) {
    r.weight_average = parse_weight_average(linear.weight_average.table);
  }
  if (sub("oscillation_reset", linear.oscillation_reset)) {
    r.oscillation_reset = parse_oscillation_reset(linear.oscillation_reset.table);
  }
}

}  // namespace nibble
