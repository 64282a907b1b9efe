#include "nibble/recipe/describe.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "nibble/io/format.h"
#include "nibble/recipe/names.h"

namespace nibble {

namespace {

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

void append(std::string& list, const std::string& phrase) {
  if (!phrase.empty()) list += (list.empty() ? "" : ", ") + phrase;
}

/// In the coordinates of the stored matrix.
std::string block_words(const QuantSpec& q) {
  Granularity g = q.granularity;
  if (q.transposed) std::swap(g.rows, g.cols);
  if (g == Granularity::per_tensor()) return "tensor";
  if (g == Granularity::per_row()) return "row";
  if (g == Granularity::per_column()) return "column";
  return fmt::format("{}x{}", g.rows, g.cols);
}

std::string scale_words(const QuantSpec& q) {
  std::string text = name_of(scale_names(), q.scale);
  if (q.element == ElementFormat::E3M0) append(text, fmt::format("{} powers of two", q.log_steps + 1));
  if (q.scale != ScaleRule::Nvfp4) return text;
  const Nvfp4Scale usual;
  const Nvfp4Scale& s = q.nvfp4;
  if (s.val_max != usual.val_max) append(text, fmt::format("maximum to {:.4g}", s.val_max));
  if (s.scale_max != usual.scale_max) append(text, fmt::format("scales to {:g}", s.scale_max));
  if (s.zero_scale != 0) append(text, fmt::format("zero becomes {:.3g}", s.zero_scale));
  if (s.outer != 0) append(text, fmt::format("F32 scale per {}", s.outer));
  if (s.selection != Selection::None) {
    append(text, fmt::format("four-over-six by {}", name_of(selection_names(), s.selection)));
  }
  return text;
}

std::string transform_words(const Hadamard& h) {
  if (!h.enabled()) return "";
  std::string text = fmt::format("Hadamard {}", h.group);
  if (h.signs != Hadamard::Signs::Plus) text += fmt::format(" signs {}", name_of(sign_names(), h.signs));
  if (h.signs_last) text += " last";
  return text;
}

std::string besides_words(const OperandSpec& spec) {
  const QuantSpec& q = spec.quant;
  std::string text;
  if (q.bf16_input) append(text, "BF16 arithmetic");
  if (q.clamp.enabled()) {
    append(text, fmt::format("clamp {}{}", q.clamp.alpha, q.clamp.per_row ? "" : " of the tensor"));
    if (q.clamp.residual != ResidualMode::None) {
      text += fmt::format(" + {} residual", name_of(residual_names(), q.clamp.residual));
    }
  }
  if (q.trust_mask) append(text, "trust mask");
  if (q.carrier != ElementFormat::BF16) append(text, fmt::format("carried in {}", name_of(element_names(), q.carrier)));
  if (spec.fold_partner_scales) append(text, "partner's scales folded in");
  if (spec.samples > 1) append(text, fmt::format("mean of {} samples", spec.samples));
  return text;
}

/// The name by which a format goes as a whole.
std::string format_name(const QuantSpec& q) {
  if (q.element != ElementFormat::E2M1) return upper(name_of(element_names(), q.element));
  if (q.scale == ScaleRule::Nvfp4) return "NVFP4";
  return scale_format(q.scale) == ScaleFormat::E8M0 && q.granularity.rows * q.granularity.cols == 32 ? "MXFP4" : "FP4";
}

std::string wider_format(const QuantSpec& q) {
  return fmt::format("{} {} {}", upper(name_of(element_names(), q.element)), block_words(q),
                     name_of(scale_names(), q.scale));
}

}  // namespace

OperandWords operand_words(const OperandSpec& spec) {
  OperandWords words;
  if (spec.source == OperandSource::Fprop) {
    words.source = "fprop's again";
    return words;
  }
  if (spec.source == OperandSource::Requantise) words.source = "fprop's requantised";
  const QuantSpec& q = spec.quant;
  words.element = upper(name_of(element_names(), q.element));
  if (!has_scale(q.element)) return words;
  words.block = block_words(q);
  words.scale = scale_words(q);
  words.rounding = name_of(rounding_names(), q.rounding);
  if (q.rounding == Rounding::Eden && q.eden_group != 16) words.rounding += fmt::format(" over {}", q.eden_group);
  words.transform = transform_words(q.hadamard);
  words.besides = besides_words(spec);
  return words;
}

std::string describe(const OperandSpec& spec) {
  if (spec.source == OperandSource::Fprop) return "as quantised for fprop";
  const OperandWords words = operand_words(spec);
  std::string text = words.element;
  if (!words.block.empty()) {
    text += " per " + words.block;
    if (words.block.find('x') != std::string::npos) text += " block";
  }
  for (const std::string* phrase : {&words.scale, &words.rounding, &words.transform, &words.source, &words.besides}) {
    append(text, *phrase);
  }
  return text;
}

std::string product_formats(const LinearRecipe& linear, Operand left) {
  const auto name = [&](Operand o) {
    return format_name(linear[linear[o].source == OperandSource::Fprop ? fprop_counterpart(o) : o].quant);
  };
  return name(left) + " x " + name(partner_of(left));
}

double stored_bits(const QuantSpec& spec, std::int64_t columns) {
  if (spec.clamp.residual == ResidualMode::Dense) return 16;
  double bits = spec.carrier == ElementFormat::BF16 ? element_bits(spec.element) : element_bits(spec.carrier);
  if (spec.clamp.residual == ResidualMode::Fused) bits = element_bits(ElementFormat::E4M3);
  const auto width = static_cast<double>(std::max<std::int64_t>(columns, 1));
  if (has_scale(spec.element) && spec.carrier == ElementFormat::BF16 && spec.granularity.rows > 0) {
    const double across =
        spec.granularity.cols == 0 ? width : std::min(width, static_cast<double>(spec.granularity.cols));
    const double scale_bits = scale_format(spec.scale) == ScaleFormat::F32 ? 32 : 8;
    bits += scale_bits / (across * static_cast<double>(spec.granularity.rows));
  }
  if (spec.nvfp4.outer > 0) bits += 32 / std::min(width, static_cast<double>(spec.nvfp4.outer));
  if (spec.trust_mask) bits += 1;
  return bits;
}

std::vector<Fact> extras(const LinearRecipe& linear) {
  std::vector<Fact> found;
  const WeightGradient& g = linear.weight_gradient;
  if (g.estimator == WeightGradient::Estimator::Dge) {
    found.push_back({"weight gradient", fmt::format("dge, k = {:g}, clip {:g}", g.k, g.clip)});
  }
  if (linear[Operand::FpropX].quant.clamp.residual == ResidualMode::Sparse && !linear.residual_in_wgrad) {
    found.push_back({"residual in wgrad", "no"});
  }
  const OutlierChannels& c = linear.outlier_channels;
  if (c.enabled()) {
    found.push_back({"outlier channels",
                     fmt::format("{:g} % of X's (a multiple of {}) in {}, chosen by their norms in steps {} to {}",
                                 100 * c.share, c.multiple, wider_format(c.quant), c.first_step, c.last_step)});
  }
  if (linear.weight_average.enabled()) {
    found.push_back({"weight average", fmt::format("decay {:g} from step {}, one F32 a weight",
                                                   linear.weight_average.decay, linear.weight_average.start_step)});
  }
  const OscillationReset& r = linear.oscillation_reset;
  if (r.enabled()) {
    const bool ratio = r.criterion == OscillationReset::Criterion::Ratio;
    found.push_back({"oscillation reset", fmt::format("{} {:g}, from {:g} % of the steps, every {} steps over {}",
                                                      ratio ? "where the ratio of changes is at least"
                                                            : "where the distance in bins is above",
                                                      r.threshold, 100 * r.start_fraction, r.period, r.window)});
  }
  return found;
}

std::vector<Fact> exemptions(const Recipe& recipe) {
  std::vector<Fact> found;
  if (!recipe.exempt.empty()) found.push_back({"exempt", join_names(recipe.exempt)});
  if (recipe.exempt_first_blocks > 0)
    found.push_back({"exempt first blocks", std::to_string(recipe.exempt_first_blocks)});
  if (recipe.exempt_last_blocks > 0) found.push_back({"exempt last blocks", std::to_string(recipe.exempt_last_blocks)});
  if (recipe.exempt_last_share > 0) {
    found.push_back({"exempt last share", fmt::format("{:g} % of the blocks", 100 * recipe.exempt_last_share)});
  }
  return found;
}

std::string stage_words(const Stage& stage) {
  std::string text;
  if (stage.monitor == Stage::Monitor::None || stage.from > 0) {
    text = fmt::format("from {:g} % of the steps", 100 * stage.from);
  }
  if (stage.monitor == Stage::Monitor::GradientToNoise) {
    append(text, fmt::format("when the gradient-to-noise ratio is below {:.6g}", stage.below));
    if (stage.patience > 1) text += fmt::format(" {} times in a row", stage.patience);
  }
  if (stage.rewarm_steps > 0) {
    append(text, fmt::format("learning rate warmed up again over {} steps", stage.rewarm_steps));
  }
  return text;
}

std::vector<Fact> extra_state(const Recipe& recipe) {
  const auto any = [&](auto&& has) {
    return std::any_of(recipe.stages.begin(), recipe.stages.end(),
                       [&](const Stage& s) { return std::any_of(s.linear.begin(), s.linear.end(), has); });
  };
  std::vector<Fact> found;
  if (any([](const LinearRecipe& l) {
        return l[Operand::FpropX].quant.trust_mask || l[Operand::FpropW].quant.trust_mask;
      })) {
    found.push_back({"trust masks", "one bit a value, until the backward"});
  }
  if (any([](const LinearRecipe& l) { return l.weight_average.enabled(); })) {
    found.push_back({"weight average", "one F32 a weight"});
  }
  if (any([](const LinearRecipe& l) { return l.outlier_channels.enabled(); })) {
    found.push_back({"outlier channels", "one F32 a channel of X, and the list of those chosen"});
  }
  if (any([](const LinearRecipe& l) { return l.oscillation_reset.enabled(); })) {
    found.push_back({"oscillation reset", "statistics of every weight during a window"});
  }
  if (recipe.has_monitor()) found.push_back({"monitor", "the gradient-to-noise ratio of measured steps"});
  return found;
}

}  // namespace nibble
