#include "nibble/recipe/operand_table.h"

#include <bit>
#include <cstdio>

#include "nibble/numerics/fp8.h"
#include "nibble/recipe/names.h"

namespace nibble {

namespace {

constexpr std::int64_t kLargestBlock = 4096;
constexpr std::int64_t kTallestSelection = 64;  // rows that the quantiser holds at once to compare two scales

bool is_e8m0_or_nvfp4(ScaleRule rule) {
  return scale_format(rule) == ScaleFormat::E8M0 || scale_format(rule) == ScaleFormat::UE4M3;
}

bool is_quest(ScaleRule rule) {
  return rule == ScaleRule::QuestFloor || rule == ScaleRule::QuestNearest || rule == ScaleRule::QuestCeil ||
         rule == ScaleRule::QuestExact;
}

bool is_nearest(Rounding rounding) {
  return rounding == Rounding::NearestEven || rounding == Rounding::NearestUp || rounding == Rounding::NearestZero ||
         rounding == Rounding::NearestAway;
}

/// A shape in the coordinates of the stored matrix, and whether it was given as a length along the contraction.
struct Shape {
  Granularity granularity;
  bool along_contraction = false;
};

Shape parse_granularity(const ConfigTable& table, bool runs_down) {
  const auto block_along = [&](std::int64_t n) {
    return Shape{runs_down ? Granularity::block(n, 1) : Granularity::block(1, n), true};
  };
  if (table.has("granularity") && !table.holds_text("granularity")) {
    return block_along(table.integer("granularity", 2, kLargestBlock));
  }
  const std::string word = table.text("granularity", "row");
  if (word == "row") return {Granularity::per_row()};
  if (word == "column") return {Granularity::per_column()};
  if (word == "tensor") return {Granularity::per_tensor()};
  long long rows = 0;
  long long cols = 0;
  char rest = 0;
  const auto fits = [](long long n) { return n >= 1 && n <= kLargestBlock; };
  if (std::sscanf(word.c_str(), "%lldx%lld%c", &rows, &cols, &rest) == 2 && fits(rows) && fits(cols) &&
      rows * cols > 1) {
    return {Granularity::block(rows, cols)};
  }
  if (std::sscanf(word.c_str(), "%lld%c", &rows, &rest) == 1 && fits(rows) && rows > 1) return block_along(rows);
  table.fail("granularity",
             fmt::format("'{}' is not row, column, tensor, a length along the contraction such as 32 or a block such "
                         "as 16x16",
                         word));
}

Clamp parse_clamp(const ConfigTable& table) {
  Clamp clamp;
  clamp.alpha = table.number("alpha", 0.99, 0.5, 1.0);
  if (clamp.alpha <= 0.5 || clamp.alpha >= 1.0) table.fail("alpha", "must lie between 0.5 and 1, both excluded");
  clamp.per_row = table.choice<bool>("axis", true, {{"row", true}, {"tensor", false}});
  clamp.residual = table.choice("residual", ResidualMode::None, residual_names());
  table.finish();
  return clamp;
}

Hadamard parse_hadamard(const ConfigTable& table) {
  Hadamard transform;
  transform.group = table.integer("group", 2, 256);
  if (!std::has_single_bit(static_cast<std::uint64_t>(transform.group))) {
    table.fail("group", fmt::format("is {}, must be a power of two from 2 to 256", transform.group));
  }
  transform.signs = table.choice("signs", Hadamard::Signs::Plus, sign_names());
  transform.signs_last = table.boolean("signs_last", false);
  if (transform.signs == Hadamard::Signs::Vector && transform.group != 16) {
    table.fail("signs", "'vector' is a constant of sixteen signs: it goes with group = 16");
  }
  table.finish();
  return transform;
}

Nvfp4Scale parse_nvfp4(const ConfigTable& table) {
  Nvfp4Scale scale;
  scale.val_max = table.fraction("val_max", 6, 1, 12);
  scale.scale_max = table.fraction("scale_max", 448, 1, 448);
  scale.zero_scale = table.fraction("zero_scale", 0, 0, 1);
  const auto zero = static_cast<float>(scale.zero_scale);
  if (e4m3_decode(e4m3_encode(zero)) != zero) {
    table.fail("zero_scale", fmt::format("is {}, which is not an E4M3 number such as 0, 1 or \"1/512\"", zero));
  }
  scale.outer = table.integer("outer", 0, 0, 65536);
  scale.selection = table.choice("select", Selection::None, selection_names());
  if (scale.selection != Selection::None && scale.scale_max * 1.5 > 448) {
    table.fail("scale_max",
               fmt::format("is {}, but four-over-six multiplies scales by 1.5, and E4M3 ends at 448: write 256",
                           scale.scale_max));
  }
  table.finish();
  return scale;
}

void only_with(const ConfigTable& table, const char* key, bool condition, const char* what) {
  if (!condition && table.has(key)) table.fail(key, fmt::format("goes with {} only", what));
}

void check_element(const ConfigTable& table, const QuantSpec& q) {
  const char* element = name_of(element_names(), q.element);
  const char* scale = name_of(scale_names(), q.scale);
  if (q.element != ElementFormat::E2M1 && (q.scale == ScaleRule::Nvfp4 || is_quest(q.scale))) {
    table.fail("scale", fmt::format("'{}' is a rule for e2m1 elements, not for {}", scale, element));
  }
  if (q.scale == ScaleRule::Sawb && q.element != ElementFormat::Int4) {
    table.fail("scale", fmt::format("'sawb' is a rule for int4 elements, not for {}", element));
  }
  if (q.scale == ScaleRule::RangeMatch34 && q.element == ElementFormat::E3M0) {
    table.fail("scale", "'range-match34' leaves 1.5 powers of two at the top, which e3m0 lacks: it has no use there");
  }
  if (!is_four_bit(q.element) && q.rounding != Rounding::NearestEven) {
    table.fail("rounding",
               fmt::format("{} elements round nearest-even; the other rules are for 4-bit elements", element));
  }
  if (q.element != ElementFormat::E2M1 && !is_nearest(q.rounding) && q.rounding != Rounding::Stochastic &&
      is_four_bit(q.element)) {
    table.fail("rounding", fmt::format("'{}' is for e2m1 elements; {} rounds to nearest or stochastic",
                                       name_of(rounding_names(), q.rounding), element));
  }
  if (!is_four_bit(q.element) && q.carrier != ElementFormat::BF16) {
    table.fail("carrier", fmt::format("is for 4-bit elements, not for {}", element));
  }
}

/// MX and NVFP4 blocks are the units of a product's contraction.
void check_blocks(const ConfigTable& table, const QuantSpec& q, Operand operand) {
  if (!is_e8m0_or_nvfp4(q.scale)) return;
  const char* scale = name_of(scale_names(), q.scale);
  if (q.granularity.is_vector_or_tensor()) {
    table.fail("scale", fmt::format("'{}' scales blocks: write granularity = {}", scale,
                                    scale_format(q.scale) == ScaleFormat::E8M0 ? 32 : 16));
  }
  const bool down = contraction_runs_down(operand) && !q.transposed;
  const std::int64_t across = down ? q.granularity.cols : q.granularity.rows;
  if (across != 1 && q.granularity.rows != q.granularity.cols) {
    table.fail("granularity",
               fmt::format("blocks of '{}' lie along the contraction, which for {} runs {} {}: write granularity = 16, "
                           "or a square tile",
                           scale, operand_name(operand),
                           contraction_runs_down(operand) ? "down the columns of" : "along the rows of",
                           tensor_name(operand)));
  }
}

void check_nvfp4(const ConfigTable& table, const QuantSpec& q) {
  if (q.nvfp4.outer > 0 && (q.granularity.rows != 1 || q.nvfp4.outer % q.granularity.cols != 0)) {
    table.fail("nvfp4", fmt::format("has outer = {}, which must be a multiple of blocks of one row", q.nvfp4.outer));
  }
  if (q.nvfp4.selection != Selection::None && q.granularity.rows > kTallestSelection) {
    table.fail("granularity", fmt::format("has {} rows a block; four-over-six is for blocks of at most {}",
                                          q.granularity.rows, kTallestSelection));
  }
  if (q.rounding != Rounding::Eden) return;
  if (q.scale != ScaleRule::Nvfp4 || q.granularity != Granularity::block(1, 16)) {
    table.fail("rounding",
               "'eden' corrects the E4M3 scales of NVFP4 blocks: write scale = \"nvfp4\" and granularity = 16");
  }
  if (q.nvfp4.selection != Selection::None) {
    table.fail("rounding", "'eden' cannot go with four-over-six, whose choice by error biases what eden corrects");
  }
}

const char* carrier_refusal(ResidualMode residual) {
  switch (residual) {
    case ResidualMode::Sparse: return "cannot go with a sparse residual: the residual is a product of its own";
    case ResidualMode::Dense: return "cannot go with a dense residual: the sum of both is a BF16 operand";
    case ResidualMode::Fused: return "cannot go with a fused residual: the elements that hold both are E4M3 already";
    case ResidualMode::None: break;
  }
  return "";
}

void check_fused(const ConfigTable& table, const QuantSpec& q) {
  if (q.element != ElementFormat::E2M1) {
    table.fail("clamp", fmt::format("a fused residual is for e2m1 elements, which E4M3 holds exactly, not for {}",
                                    name_of(element_names(), q.element)));
  }
  if ((q.scale != ScaleRule::Absmax && q.scale != ScaleRule::AbsmaxPow2) ||
      (q.granularity != Granularity::per_row() && q.granularity != Granularity::per_tensor())) {
    table.fail("clamp",
               "a fused residual is multiplied with the elements, from whose product the scales must be left out: it "
               "needs scale = \"absmax\" or \"absmax-pow2\" and granularity = \"row\" or \"tensor\"");
  }
  if (q.trust_mask) {
    table.fail("trust_mask", "cannot go with a fused residual: it marks what the e2m1 grid cuts off, which is kept");
  }
}

void check_clamp(const ConfigTable& table, const QuantSpec& q, Operand operand) {
  if (q.clamp.residual == ResidualMode::None) return;
  if (q.carrier != ElementFormat::BF16) table.fail("carrier", carrier_refusal(q.clamp.residual));
  if (q.clamp.residual == ResidualMode::Fused) check_fused(table, q);
  if (q.clamp.residual != ResidualMode::Sparse) return;
  if (operand != Operand::FpropX) table.fail("clamp", "a sparse residual is defined for fprop.x only");
  if (q.hadamard.enabled()) {
    table.fail("hadamard", "cannot go with a sparse residual, which is multiplied by the weight as it is");
  }
}

void check_place(const ConfigTable& table, const QuantSpec& q, Operand operand) {
  const bool forward = operand == Operand::FpropX || operand == Operand::FpropW;
  if (q.trust_mask && !forward) {
    table.fail("trust_mask", "is for fprop.x and fprop.w, whose gradients it masks");
  }
  if (q.trust_mask && q.element != ElementFormat::E2M1) table.fail("trust_mask", "is for e2m1 elements");
  if (q.rounding == Rounding::Reference && operand != Operand::FpropW) {
    table.fail("rounding", "'reference' rounds towards the average of the weight: it is for fprop.w");
  }
  if (forward && q.hadamard.signs == Hadamard::Signs::Call) {
    table.fail("hadamard", "signs = \"call\" is for the backward: fprop.w is quantised once a step, so write \"step\"");
  }
}

QuantSpec parse_quant(const ConfigTable& table, Operand operand) {
  QuantSpec q;
  const bool runs_down = contraction_runs_down(operand);
  q.element = table.choice("element", ElementFormat::BF16, element_names());
  const Shape shape = parse_granularity(table, runs_down);
  q.granularity = shape.granularity;
  q.scale = table.choice("scale", ScaleRule::Absmax, scale_names());
  q.rounding = table.choice("rounding", Rounding::NearestEven, rounding_names());
  only_with(table, "nvfp4", q.scale == ScaleRule::Nvfp4, "scale = \"nvfp4\"");
  if (table.has("nvfp4")) q.nvfp4 = parse_nvfp4(table.table("nvfp4"));
  only_with(table, "eden_group", q.rounding == Rounding::Eden, "rounding = \"eden\"");
  q.eden_group = table.integer("eden_group", 16, 16, kLargestBlock);
  if (q.eden_group % 16 != 0) table.fail("eden_group", fmt::format("is {}, must be a multiple of 16", q.eden_group));
  only_with(table, "log_steps", q.element == ElementFormat::E3M0, "element = \"e3m0\"");
  q.log_steps = static_cast<int>(table.integer("log_steps", 6, 1, 6));
  if (table.has("hadamard")) q.hadamard = parse_hadamard(table.table("hadamard"));
  if (table.has("clamp")) q.clamp = parse_clamp(table.table("clamp"));
  q.trust_mask = table.boolean("trust_mask", false);
  q.bf16_input = table.boolean("bf16_input", false);
  q.carrier =
      table.choice("carrier", ElementFormat::BF16,
                   {{"none", ElementFormat::BF16}, {"e4m3", ElementFormat::E4M3}, {"e5m2", ElementFormat::E5M2}});
  // What works along rows of the quantised matrix needs the contraction there.
  const bool along_rows =
      shape.along_contraction || q.hadamard.enabled() || q.rounding == Rounding::Eden || q.nvfp4.outer > 0;
  if (runs_down && along_rows) {
    q.transposed = true;
    std::swap(q.granularity.rows, q.granularity.cols);
  }
  check_element(table, q);
  check_blocks(table, q, operand);
  check_nvfp4(table, q);
  check_clamp(table, q, operand);
  check_place(table, q, operand);
  return q;
}

constexpr const char* kQuantiserKeys[] = {
    "granularity", "scale",   "nvfp4",      "rounding",   "eden_group", "log_steps",          "hadamard",
    "clamp",       "carrier", "trust_mask", "bf16_input", "samples",    "fold_partner_scales"};

void refuse_quantiser_keys(const ConfigTable& table, const std::string& reason) {
  for (const char* key : kQuantiserKeys) {
    if (table.has(key)) table.fail(key, reason);
  }
}

}  // namespace

OperandSpec parse_operand(const ConfigTable& table, Operand operand) {
  OperandSpec spec;
  const bool reusable = operand == Operand::DgradW || operand == Operand::WgradX;
  const bool gradient = operand == Operand::DgradDy || operand == Operand::WgradDy;
  only_with(table, "source", reusable, "dgrad.w and wgrad.x");
  only_with(table, "fold_partner_scales", gradient, "dgrad.dy and wgrad.dy");
  only_with(table, "samples", operand == Operand::WgradDy, "wgrad.dy");
  spec.source = table.choice("source", OperandSource::HighPrecision, source_names());
  if (spec.source == OperandSource::Fprop) {
    const std::string reason = "cannot go with source = \"fprop\", which takes what fprop quantised";
    if (table.has("element")) table.fail("element", reason);
    refuse_quantiser_keys(table, reason);
    table.finish();
    return spec;
  }
  const ElementFormat element = table.choice("element", ElementFormat::BF16, element_names());
  if (!has_scale(element)) {
    const char* name = name_of(element_names(), element);
    if (spec.source == OperandSource::Requantise) {
      table.fail("source", fmt::format("'requantise' needs an element format to quantise to, not {}", name));
    }
    refuse_quantiser_keys(table, fmt::format("{} elements are stored without a scale", name));
    spec.quant.element = element;
    table.finish();
    return spec;
  }
  spec.quant = parse_quant(table, operand);
  spec.fold_partner_scales = table.boolean("fold_partner_scales", false);
  if (spec.fold_partner_scales && spec.quant.transposed) {
    table.fail("fold_partner_scales",
               fmt::format("cannot go with blocks or a transform along the contraction of {}", operand_name(operand)));
  }
  spec.samples = static_cast<int>(table.integer("samples", 1, 1, 64));
  if (spec.samples > 1 && !is_stochastic(spec.quant.rounding)) {
    table.fail("samples", "averages independent roundings: it goes with stochastic rounding only");
  }
  table.finish();
  return spec;
}

QuantSpec parse_wider_format(const ConfigTable& table) {
  QuantSpec q;
  q.element = table.choice("element", ElementFormat::E4M3, element_names());
  if (!has_scale(q.element)) table.fail("element", "must be a format with a scale, such as e4m3");
  q.granularity = parse_granularity(table, /*runs_down=*/false).granularity;
  q.scale = table.choice("scale", ScaleRule::Absmax, scale_names());
  check_element(table, q);
  check_blocks(table, q, Operand::FpropX);
  return q;
}

}  // namespace nibble
