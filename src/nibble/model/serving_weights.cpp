#include "nibble/model/serving_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "nibble/quant/quantize.h"
#include "nibble/recipe/names.h"

namespace nibble {

namespace {

float amax_of(const Tensor& w) {
  float amax = 0;
  const float* values = w.data<float>();
  for (std::int64_t i = 0; i < w.numel(); ++i) {
    if (std::isfinite(values[i])) amax = std::max(amax, std::abs(values[i]));
  }
  return amax;
}

QuantSpec standard_spec(ServingFormat format, const Tensor& w) {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = Granularity::block(1, serving_block(format));
  if (format == ServingFormat::Mxfp4) {
    spec.scale = ScaleRule::OcpFloor;
    return spec;
  }
  spec.scale = ScaleRule::Nvfp4;
  const float amax = amax_of(w);
  if (amax == 0) return spec;  // s_enc is 1 then
  const Nvfp4Scale ideal;
  // Both the scale and its inverse are normal floats.
  const int exponent = std::clamp(std::ilogb(ideal.val_max * ideal.scale_max / amax), -126, 126);
  spec.nvfp4.scale_max = std::ldexp(static_cast<double>(amax), exponent) / spec.nvfp4.val_max;
  return spec;
}

bool powers_of_two(ScaleRule rule) {
  return scale_format(rule) == ScaleFormat::E8M0 && rule != ScaleRule::RangeMatch34;
}

}  // namespace

const char* serving_format_name(ServingFormat format) { return format == ServingFormat::Nvfp4 ? "nvfp4" : "mxfp4"; }

std::int64_t serving_block(ServingFormat format) { return format == ServingFormat::Nvfp4 ? 16 : 32; }

const ServedLinear* ServingPlan::find(const std::string& parameter) const {
  const auto at = std::find_if(linears.begin(), linears.end(), [&](const auto& l) { return l.name == parameter; });
  return at == linears.end() ? nullptr : &*at;
}

std::int64_t ServingPlan::count(ServedLinear::Kind kind) const {
  return std::count_if(linears.begin(), linears.end(), [&](const auto& l) { return l.kind == kind; });
}

std::string ServingPlan::describe(const Recipe& recipe) const {
  const std::int64_t trained = count(ServedLinear::Kind::AsTrained);
  const std::int64_t kept = count(ServedLinear::Kind::HighPrecision);
  const std::int64_t standard = count(ServedLinear::Kind::Standard);
  std::string text;
  const auto add = [&](std::int64_t n, const std::string& what) {
    if (n > 0) text += fmt::format("{}{} linear layers {}", text.empty() ? "" : ", ", n, what);
  };
  add(trained, fmt::format("with the codes of recipe '{}'", recipe.name));
  add(standard, fmt::format("by {}'s standard rule", format == ServingFormat::Nvfp4 ? "NVFP4" : "MXFP4"));
  add(kept, fmt::format("in high precision, as recipe '{}' has them", recipe.name));
  return text;
}

std::string why_not_served(const LinearRecipe& layer, ServingFormat format) {
  const QuantSpec& w = layer[Operand::FpropW].quant;
  const bool nvfp4 = format == ServingFormat::Nvfp4;
  if (w.element != ElementFormat::E2M1) {
    return fmt::format("its elements are {}", name_of(element_names(), w.element));
  }
  if (nvfp4 ? w.scale != ScaleRule::Nvfp4 : !powers_of_two(w.scale)) {
    return fmt::format("its scales are {}", name_of(scale_names(), w.scale));
  }
  if (w.granularity.cols != serving_block(format)) return fmt::format("its blocks have {} columns", w.granularity.cols);
  if (nvfp4 && w.nvfp4.outer != 0) return "the second level of its scales covers stretches of rows";
  if (w.hadamard.enabled()) return "its codes are those of transformed weights";
  if (w.clamp.enabled()) return "it clamps";
  if (w.transposed) return "it is transposed";
  if (has_scale(w.carrier)) return fmt::format("it is carried in {}", name_of(element_names(), w.carrier));
  if (is_stochastic(w.rounding) || w.rounding == Rounding::Reference) {
    return fmt::format("its rounding is {}", name_of(rounding_names(), w.rounding));
  }
  if (layer.outlier_channels.enabled()) return "it keeps outlier channels apart";
  return "";
}

ServingPlan plan_serving(const LlamaConfig& model, const Recipe& recipe, std::size_t stage, ServingFormat format,
                         ServingRule rule, std::int64_t columns) {
  ServingPlan plan{.format = format, .linears = {}};
  std::string reason;
  bool any_trained = false;
  for (std::int64_t b = 0; b < model.layers; ++b) {
    for (const LinearShape& shape : block_linears(model)) {
      const std::string name = fmt::format("layers.{}.{}", b, shape.name);
      if (shape.inputs % columns != 0) {
        user_error("the matrix of '{}' has {} columns; {} needs a multiple of {}", name, shape.inputs,
                   serving_format_name(format), columns);
      }
      ServedLinear linear{.name = name, .kind = ServedLinear::Kind::Standard, .spec = {}};
      const LinearRecipe& layer = recipe.resolve(name, b, model.layers, stage);
      const std::string why = why_not_served(layer, format);
      if (why.empty()) {
        linear.kind = ServedLinear::Kind::AsTrained;
        linear.spec = layer[Operand::FpropW].quant;
        linear.spec.trust_mask = false;
        any_trained = true;
      } else if (!has_scale(layer[Operand::FpropW].quant.element)) {
        linear.kind = ServedLinear::Kind::HighPrecision;
      } else if (reason.empty()) {
        reason = why;
      }
      plan.linears.push_back(std::move(linear));
    }
  }
  if (rule == ServingRule::AsTrained && !any_trained) {
    user_error("recipe '{}' does not multiply with {} weights on forward: {}", recipe.name, serving_format_name(format),
               reason.empty() ? "it leaves them in high precision" : reason);
  }
  if (rule == ServingRule::Standard || !any_trained) {
    for (ServedLinear& linear : plan.linears) linear.kind = ServedLinear::Kind::Standard;
  }
  return plan;
}

ServedWeight quantise_for_serving(const Tensor& w, const ServedLinear& linear, ServingFormat format) {
  require(linear.kind != ServedLinear::Kind::HighPrecision, "'{}' is not to be quantised", linear.name);
  Arena arena;
  const QuantSpec spec = linear.kind == ServedLinear::Kind::AsTrained ? linear.spec : standard_spec(format, w);
  const QTensor q = quantize(w, spec, {}, arena);
  require(q.code_row_bytes() * 2 == q.cols && q.tensor_scale > 0, "'{}' in an unexpected form", linear.name);
  const std::int64_t block = serving_block(format);
  ServedWeight served{.codes = OwnedTensor(DType::U8, {q.rows, q.cols / 2}),
                      .scales = OwnedTensor(DType::U8, {q.rows, q.cols / block}),
                      .tensor_scale = q.tensor_scale};
  std::memcpy(served.codes.view().raw(), q.codes.raw(), q.codes.bytes());
  const auto* scales = q.scales.data<std::uint8_t>();
  auto* to = served.scales.view().data<std::uint8_t>();
  const auto in_row = static_cast<std::size_t>(q.scale_cols());
  for (std::int64_t r = 0; r < q.rows; ++r) {  // squares of 16 x 16 share one: each row gets it
    std::memcpy(to + static_cast<std::size_t>(r) * in_row,
                scales + static_cast<std::size_t>(r / q.block_rows()) * in_row, in_row);
  }
  return served;
}

const Tensor& ServedSource::parameter(const ParameterShape& parameter) {
  if (name_ == parameter.name) return values_.view();
  values_ = OwnedTensor(DType::F32, parameter.shape);
  const std::int64_t row = parameter.shape.size() == 1 ? 1 : parameter.shape[1];
  std::int64_t first = 0;
  for (const ParameterPart& part : parameter.parts) {
    const Tensor elements = values_.view().elements(first * row, (first + part.rows) * row);
    weights_.read_floats(part.hf_name,
                         parameter.shape.size() == 1 ? elements : elements.reshape({part.rows, parameter.shape[1]}));
    first += part.rows;
  }
  name_ = parameter.name;
  return values_.view();
}

const ServedWeight& ServedSource::quantised(const ParameterShape& parameter, const ServedLinear& linear) {
  if (quantised_name_ != parameter.name) {
    served_ = quantise_for_serving(this->parameter(parameter), linear, format_);
    quantised_name_ = parameter.name;
  }
  return served_;
}

}  // namespace nibble
