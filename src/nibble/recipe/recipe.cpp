#include "nibble/recipe/recipe.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "nibble/io/config_table.h"
#include "nibble/io/file.h"
#include "nibble/io/suggest.h"

namespace nibble {

namespace {

namespace fs = std::filesystem;

const std::vector<std::pair<const char*, ElementFormat>> kElements = {{"f32", ElementFormat::F32},
                                                                      {"bf16", ElementFormat::BF16},
                                                                      {"e2m1", ElementFormat::E2M1},
                                                                      {"e4m3", ElementFormat::E4M3},
                                                                      {"e5m2", ElementFormat::E5M2}};
const std::vector<std::pair<const char*, ScaleRule>> kScaleRules = {{"absmax", ScaleRule::Absmax},
                                                                    {"absmax-pow2", ScaleRule::AbsmaxPow2},
                                                                    {"ocp-floor", ScaleRule::OcpFloor},
                                                                    {"ceil6", ScaleRule::Ceil6},
                                                                    {"nvfp4", ScaleRule::Nvfp4}};
const std::vector<std::pair<const char*, Rounding>> kRoundings = {
    {"nearest-even", Rounding::NearestEven}, {"nearest-up", Rounding::NearestUp},
    {"nearest-zero", Rounding::NearestZero}, {"nearest-away", Rounding::NearestAway},
    {"stochastic", Rounding::Stochastic},    {"stochastic-8bit", Rounding::Stochastic8}};
const std::vector<std::pair<const char*, ResidualMode>> kResiduals = {{"none", ResidualMode::None},
                                                                      {"sparse", ResidualMode::Sparse}};

template <class E>
const char* name_of(const std::vector<std::pair<const char*, E>>& names, E value) {
  for (const auto& [name, v] : names) {
    if (v == value) return name;
  }
  return "none";
}

Granularity parse_granularity(const ConfigTable& table) {
  const std::string word = table.text("granularity", "row");
  if (word == "row") return Granularity::per_row();
  if (word == "column") return Granularity::per_column();
  if (word == "tensor") return Granularity::per_tensor();
  long long rows = 0;
  long long cols = 0;
  char rest = 0;
  if (std::sscanf(word.c_str(), "%lldx%lld%c", &rows, &cols, &rest) == 2 && rows >= 1 && cols >= 1 && rows * cols > 1 &&
      rows <= 4096 && cols <= 4096) {
    return Granularity::block(rows, cols);
  }
  table.fail("granularity", fmt::format("'{}' is not row, column, tensor or a block such as 1x32", word));
}

Clamp parse_clamp(const ConfigTable& table) {
  Clamp clamp;
  clamp.alpha = table.number("alpha", 0.99, 0.5, 1.0);
  if (clamp.alpha <= 0.5 || clamp.alpha >= 1.0) table.fail("alpha", "must lie between 0.5 and 1, both excluded");
  clamp.per_row = table.choice<bool>("axis", true, {{"row", true}, {"tensor", false}});
  clamp.residual = table.choice("residual", ResidualMode::None, kResiduals);
  table.finish();
  return clamp;
}

void check_combination(const ConfigTable& table, const QuantSpec& spec) {
  const bool e2m1 = spec.element == ElementFormat::E2M1;
  if (!e2m1 && spec.rounding != Rounding::NearestEven) {
    table.fail("rounding", fmt::format("{} elements round nearest-even; the other rules are for e2m1",
                                       name_of(kElements, spec.element)));
  }
  if (!e2m1 && spec.scale != ScaleRule::Absmax && spec.scale != ScaleRule::AbsmaxPow2 && has_scale(spec.element)) {
    table.fail("scale", fmt::format("'{}' is a rule for e2m1 elements; {} takes absmax or absmax-pow2",
                                    name_of(kScaleRules, spec.scale), name_of(kElements, spec.element)));
  }
  const bool mx = spec.scale == ScaleRule::OcpFloor || spec.scale == ScaleRule::Ceil6;
  if ((mx || spec.scale == ScaleRule::Nvfp4) && spec.granularity.is_vector_or_tensor()) {
    table.fail("scale", fmt::format("'{}' scales blocks: write granularity = \"{}\"", name_of(kScaleRules, spec.scale),
                                    mx ? "1x32" : "1x16"));
  }
  if (spec.clamp.residual == ResidualMode::Sparse && spec.carrier != ElementFormat::BF16) {
    table.fail("carrier", "cannot go with a sparse residual: the residual is a product of its own");
  }
}

OperandSpec parse_operand(const ConfigTable& table, Operand operand) {
  OperandSpec spec;
  const bool may_reuse = operand == Operand::DgradW || operand == Operand::WgradX;
  const bool is_gradient = operand == Operand::DgradDy || operand == Operand::WgradDy;
  if (may_reuse && table.has("source")) {
    spec.from_fprop = table.choice<bool>("source", false, {{"fprop", true}, {"high-precision", false}});
    if (spec.from_fprop) {
      table.finish();
      return spec;
    }
  }
  spec.quant.element = table.choice("element", ElementFormat::BF16, kElements);
  if (has_scale(spec.quant.element)) {
    spec.quant.granularity = parse_granularity(table);
    spec.quant.scale = table.choice("scale", ScaleRule::Absmax, kScaleRules);
    spec.quant.rounding = table.choice("rounding", Rounding::NearestEven, kRoundings);
    if (table.has("clamp")) spec.quant.clamp = parse_clamp(table.table("clamp"));
    spec.quant.bf16_input = table.boolean("bf16_input", false);
    spec.quant.carrier =
        table.choice("carrier", ElementFormat::BF16,
                     {{"none", ElementFormat::BF16}, {"e4m3", ElementFormat::E4M3}, {"e5m2", ElementFormat::E5M2}});
    if (is_gradient) spec.fold_partner_scales = table.boolean("fold_partner_scales", false);
    if (spec.quant.clamp.residual == ResidualMode::Sparse && operand != Operand::FpropX) {
      table.fail("clamp", "a sparse residual is defined for fprop.x only");
    }
    check_combination(table, spec.quant);
  } else if (table.has("scale") || table.has("clamp")) {
    table.fail(table.has("scale") ? "scale" : "clamp",
               fmt::format("{} elements are stored without a scale", name_of(kElements, spec.quant.element)));
  }
  table.finish();
  return spec;
}

/// Folding needs the partner's scales to be one F32 vector along the contraction.
void check_fold(const ConfigTable& table, const Recipe& recipe, Operand dy, Operand partner, Operand fprop) {
  if (!recipe[dy].fold_partner_scales) return;
  const QuantSpec& p = recipe[partner].from_fprop ? recipe[fprop].quant : recipe[partner].quant;
  if (!has_scale(p.element) || scale_format(p.scale) != ScaleFormat::F32 || p.granularity != Granularity::per_row() ||
      p.carrier != ElementFormat::BF16) {
    table.fail("fold_partner_scales",
               fmt::format("needs {} to have one absmax scale a row and no carrier", operand_name(partner)));
  }
}

}  // namespace

const char* operand_name(Operand operand) {
  static constexpr const char* names[] = {"fprop.x", "fprop.w", "dgrad.dy", "dgrad.w", "wgrad.dy", "wgrad.x"};
  return names[static_cast<std::size_t>(operand)];
}

bool Recipe::is_exempt(const std::string& layer, std::int64_t block, std::int64_t blocks) const {
  if (block < exempt_first_blocks || block >= blocks - exempt_last_blocks) return true;
  for (const std::string& pattern : exempt) {
    if (fnmatch(pattern.c_str(), layer.c_str(), 0) == 0) return true;
  }
  return false;
}

Recipe parse_recipe(const std::string& text, const std::string& origin) {
  const ConfigTable root = ConfigTable::parse_text(text, origin);
  Recipe recipe;
  recipe.text = text;
  recipe.name = root.text("name");
  recipe.title = root.text("title", recipe.name);
  recipe.source = root.text("source", "");
  const ConfigTable products[] = {root.table("fprop"), root.table("dgrad"), root.table("wgrad")};
  for (Operand o : kAllOperands) {
    const std::string name = operand_name(o);
    const ConfigTable& product = products[static_cast<std::size_t>(o) / 2];
    recipe[o] = parse_operand(product.table(name.substr(name.find('.') + 1)), o);
  }
  for (const ConfigTable& product : products) product.finish();
  check_fold(products[1].table("dy"), recipe, Operand::DgradDy, Operand::DgradW, Operand::FpropW);
  check_fold(products[2].table("dy"), recipe, Operand::WgradDy, Operand::WgradX, Operand::FpropX);

  const ConfigTable weight = root.table("weight_gradient");
  using Estimator = WeightGradient::Estimator;
  recipe.weight_gradient.estimator = weight.choice("estimator", Estimator::StraightThrough,
                                                   {{"ste", Estimator::StraightThrough}, {"dge", Estimator::Dge}});
  if (recipe.weight_gradient.estimator == Estimator::Dge) {
    recipe.weight_gradient.k = static_cast<float>(weight.number("k", 5, 1, 100));
    recipe.weight_gradient.clip = static_cast<float>(weight.number("clip", 3, 0.01, 1e6));
    if (recipe[Operand::FpropW].quant.element != ElementFormat::E2M1) {
      weight.fail("estimator", "dge is the derivative of E2M1 rounding: fprop.w must have element = \"e2m1\"");
    }
  }
  recipe.residual_in_wgrad = weight.boolean("residual", true);
  weight.finish();

  const ConfigTable layers = root.table("layers");
  recipe.exempt = layers.texts("exempt");
  recipe.exempt_first_blocks = layers.integer("exempt_first_blocks", 0, 0, 10000);
  recipe.exempt_last_blocks = layers.integer("exempt_last_blocks", 0, 0, 10000);
  layers.finish();
  root.finish();
  return recipe;
}

Recipe load_recipe(const fs::path& path) { return parse_recipe(read_file(path), path.string()); }

Recipe unquantised_recipe(ElementFormat element) {
  Recipe recipe;
  recipe.name = name_of(kElements, element);
  recipe.title = "unquantised";
  for (Operand o : kAllOperands) recipe[o].quant.element = element;
  recipe[Operand::DgradW].from_fprop = true;
  recipe[Operand::WgradX].from_fprop = true;
  return recipe;
}

fs::path find_recipe(const std::string& name) {
  if (name.find('/') != std::string::npos || name.ends_with(".toml")) return name;
  std::vector<fs::path> folders;
  if (const char* env = std::getenv("NIBBLE_RECIPES")) folders.emplace_back(env);
  folders.emplace_back("recipes");
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  folders.push_back(program.parent_path() / "recipes");
  folders.push_back(program.parent_path() / "share" / "nibble" / "recipes");
  std::vector<std::string> known;
  for (const fs::path& folder : folders) {
    if (fs::is_regular_file(folder / (name + ".toml"), ignored)) return folder / (name + ".toml");
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
      if (entry.path().extension() == ".toml") known.push_back(entry.path().stem().string());
    }
  }
  std::sort(known.begin(), known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  if (known.empty()) {
    user_error(
        "the recipe '{}' can't be looked up, for there is no recipe folder here: set NIBBLE_RECIPES to one, or give "
        "the path of a .toml file",
        name);
  }
  user_error("there is no recipe '{}' among {}{}", name, fmt::join(known, ", "), did_you_mean(name, known));
}

std::string describe(const OperandSpec& spec) {
  if (spec.from_fprop) return "as quantised for fprop";
  const QuantSpec& q = spec.quant;
  std::string text = name_of(kElements, q.element);
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (!has_scale(q.element)) return text;
  const Granularity g = q.granularity;
  if (g == Granularity::per_row()) {
    text += " per row";
  } else if (g == Granularity::per_column()) {
    text += " per column";
  } else if (g == Granularity::per_tensor()) {
    text += " per tensor";
  } else {
    text += fmt::format(" per {}x{} block", g.rows, g.cols);
  }
  text += fmt::format(", {}, {}", name_of(kScaleRules, q.scale), name_of(kRoundings, q.rounding));
  if (q.clamp.enabled()) {
    text += fmt::format(", clamp {}{}", q.clamp.alpha,
                        q.clamp.residual == ResidualMode::Sparse ? " + sparse residual" : "");
  }
  if (q.carrier != ElementFormat::BF16) text += fmt::format(", carried in {}", name_of(kElements, q.carrier));
  if (spec.fold_partner_scales) text += ", partner's scales folded in";
  return text;
}

}  // namespace nibble
