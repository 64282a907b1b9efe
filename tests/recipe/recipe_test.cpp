// What recipe files can say, and how one extends another.
#include "nibble/recipe/recipe.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>

#include "nibble/recipe/describe.h"
#include "nibble/tensor/error.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

std::string refusal(const std::string& text, const std::string& origin = "r.toml") {
  try {
    parse_recipe(text, origin);
  } catch (const UserError& e) {
    return e.what();
  }
  return "accepted";
}

Recipe parse(const std::string& body) { return parse_recipe("name = \"x\"\n" + body, "r.toml"); }
QuantSpec operand(Operand o, const std::string& body) {
  return parse(fmt::format("[{}]\n{}", operand_name(o), body)).base()[o].quant;
}

TEST(Recipe, WrongKeyNamesFileLineAndNearestName) {
  EXPECT_EQ(refusal("name = \"x\"\n[fprop.x]\nelement = \"e2m1\"\nscal = \"absmax\"\n").substr(0, 79),
            "r.toml:4: key 'fprop.x.scal': is not known here; did you mean 'scale'? (known: ");
  EXPECT_NE(refusal("name = \"x\"\n[fprop.y]\nelement = \"e2m1\"\n").find("r.toml:2: key 'fprop.y'"),
            std::string::npos);
  EXPECT_NE(refusal("name = \"x\"\nforward = \"bf16\"\n").find("r.toml:2: key 'forward': is not known here"),
            std::string::npos);
}

TEST(Recipe, WrongValueNamesTheAllowedOnes) {
  EXPECT_EQ(refusal("name = \"x\"\n[fprop.x]\nelement = \"fp4\"\n"),
            "r.toml:3: key 'fprop.x.element': 'fp4' is not one of f32, bf16, e2m1, int4, e3m0, e4m3, e5m2");
  EXPECT_NE(
      refusal("name = \"x\"\n[fprop.x]\nelement = \"e2m1\"\ngranularity = \"1y32\"\n").find("row, column, tensor"),
      std::string::npos);
  EXPECT_NE(refusal("name = 3\n").find("must be a string, not an integer"), std::string::npos);
  EXPECT_NE(refusal("name = \"x\"\n[layers]\nexempt_last_blocks = -1\n").find("must be 0 to"), std::string::npos);
}

TEST(Recipe, WrongSyntaxNamesTheLine) { EXPECT_EQ(refusal("name = \"x\"\n[fprop\n").substr(0, 9), "r.toml:2:"); }

TEST(Recipe, OperandsThatAreNotNamedStayBf16) {
  const LinearRecipe r = parse("").base();
  for (const Operand o : kAllOperands) {
    EXPECT_EQ(r[o], OperandSpec{}) << operand_name(o);
    EXPECT_EQ(r[o].quant.element, ElementFormat::BF16);
  }
}

TEST(Recipe, ABlockGivenByItsLengthLiesAlongTheContraction) {
  for (const Operand o : kAllOperands) {
    const bool down = o == Operand::DgradW || o == Operand::WgradDy || o == Operand::WgradX;
    for (const char* length : {"32", "\"32\""}) {
      const QuantSpec q = operand(o, std::string("element = \"e2m1\"\nscale = \"ceil6\"\ngranularity = ") + length);
      EXPECT_EQ(q.granularity, Granularity::block(1, 32)) << operand_name(o);
      EXPECT_EQ(q.transposed, down) << operand_name(o);
    }
  }
}

TEST(Recipe, LiteralShapesAreThoseOfTheStoredMatrix) {
  const QuantSpec column = operand(Operand::WgradDy, "element = \"e4m3\"\ngranularity = \"column\"\n");
  EXPECT_EQ(column.granularity, Granularity::per_column());
  EXPECT_FALSE(column.transposed);
  const QuantSpec tile = operand(Operand::DgradW, "element = \"e2m1\"\nscale = \"nvfp4\"\ngranularity = \"16x16\"\n");
  EXPECT_EQ(tile.granularity, Granularity::block(16, 16));
  EXPECT_FALSE(tile.transposed);
  const QuantSpec down = operand(Operand::WgradX, "element = \"e2m1\"\nscale = \"nvfp4\"\ngranularity = \"16x1\"\n");
  EXPECT_EQ(down.granularity, Granularity::block(16, 1));
}

TEST(Recipe, ATransformTurnsTheOperandSoThatItsRowsAreTheContraction) {
  const LinearRecipe r = parse(R"(
[wgrad.dy]
element = "e2m1"
granularity = "column"
hadamard = { group = 64, signs = "step", signs_last = true }
[wgrad.x]
element = "e2m1"
granularity = "tensor"
hadamard = { group = 64, signs = "step", signs_last = true }
)")
                             .base();
  EXPECT_TRUE(r[Operand::WgradDy].quant.transposed);
  EXPECT_EQ(r[Operand::WgradDy].quant.granularity, Granularity::per_row());
  EXPECT_EQ(r[Operand::WgradX].quant.granularity, Granularity::per_tensor());
  EXPECT_EQ(r[Operand::WgradX].quant.hadamard, (Hadamard{64, Hadamard::Signs::Step, true}));
}

TEST(Recipe, Nvfp4ParametersTakeNumbersAndFractions) {
  const QuantSpec q = operand(Operand::DgradDy, R"(element = "e2m1"
granularity = 16
scale = "nvfp4"
nvfp4 = { val_max = "96/17", scale_max = 256, zero_scale = "1/512", outer = 128, select = "max-abs" }
)");
  EXPECT_EQ(q.nvfp4, (Nvfp4Scale{96.0 / 17.0, 256, 1.0 / 512, 128, Selection::MaxAbs}));
  EXPECT_EQ(operand(Operand::DgradDy, "element = \"e2m1\"\ngranularity = 16\nscale = \"nvfp4\"\n").nvfp4, Nvfp4Scale{});
}

TEST(Recipe, TheOtherLinearTablesAreRead) {
  const LinearRecipe r = parse(R"(
[fprop.x]
element = "e2m1"
[fprop.w]
element = "e2m1"
granularity = 32
scale = "ceil6"
rounding = "reference"
[wgrad.dy]
element = "e3m0"
granularity = "tensor"
rounding = "stochastic"
log_steps = 4
samples = 2
[weight_gradient]
estimator = "dge"
k = 3
clip = 2
[outlier_channels]
share = 0.2
multiple = 64
first_step = 5
last_step = 9
granularity = 32
scale = "ceil6"
[weight_average]
decay = 0.9
start_step = 3
[oscillation_reset]
criterion = "edge"
threshold = 0.4
start_fraction = 0.5
period = 100
window = 20
)")
                             .base();
  EXPECT_EQ(r[Operand::WgradDy].quant.log_steps, 4);
  EXPECT_EQ(r[Operand::WgradDy].samples, 2);
  EXPECT_EQ(r.weight_gradient.k, 3);
  EXPECT_EQ(r.outlier_channels.share, 0.2);
  EXPECT_EQ(r.outlier_channels.multiple, 64);
  EXPECT_EQ(r.outlier_channels.first_step, 5);
  EXPECT_EQ(r.outlier_channels.last_step, 9);
  EXPECT_EQ(r.outlier_channels.quant.element, ElementFormat::E4M3);
  EXPECT_EQ(r.outlier_channels.quant.granularity, Granularity::block(1, 32));
  EXPECT_EQ(r.outlier_channels.quant.scale, ScaleRule::Ceil6);
  EXPECT_EQ(r.weight_average.decay, 0.9);
  EXPECT_EQ(r.weight_average.start_step, 3);
  EXPECT_EQ(r.oscillation_reset.criterion, OscillationReset::Criterion::Edge);
  EXPECT_EQ(r.oscillation_reset.threshold, 0.4);
  EXPECT_EQ(r.oscillation_reset.start_fraction, 0.5);
  EXPECT_EQ(r.oscillation_reset.period, 100);
  EXPECT_EQ(r.oscillation_reset.window, 20);
}

TEST(Recipe, ModuleRulesReplaceWholeOperandsAndTheFirstThatMatchesCounts) {
  const Recipe r = parse(R"(
[fprop.x]
element = "e2m1"
rounding = "nearest-up"
[[modules]]
layers = ["layers.*.attention.*", "layers.0.*"]
[modules.fprop.x]
element = "e2m1"
[[modules]]
layers = "layers.*.attention.qkv"
forward = "f32"
)");
  ASSERT_EQ(r.stages.size(), 1U);
  ASSERT_EQ(r.stages[0].linear.size(), 3U);
  const auto x = [&](const char* layer, std::int64_t block) {
    return r.resolve(layer, block, 4, 0)[Operand::FpropX].quant;
  };
  EXPECT_EQ(x("layers.2.mlp.down", 2).rounding, Rounding::NearestUp);
  EXPECT_EQ(x("layers.2.attention.qkv", 2).rounding, Rounding::NearestEven);
  EXPECT_EQ(x("layers.0.mlp.down", 0).rounding, Rounding::NearestEven);
  EXPECT_EQ(r.stages[0].linear[1][Operand::FpropX].quant.element, ElementFormat::F32);
}

TEST(Recipe, AStageChangesEveryLayerAndWhatItDoesNotNameStays) {
  const Recipe r = parse(R"(
[fprop.x]
element = "e2m1"
[fprop.w]
element = "e2m1"
[dgrad.dy]
element = "e5m2"
[[modules]]
layers = "layers.*.mlp.down"
[modules.fprop.x]
element = "e4m3"
[[stages]]
from = 0.5
forward = "bf16"
[[stages]]
from = 0.75
backward = "bf16"
rewarm_steps = 7
)");
  ASSERT_EQ(r.stages.size(), 3U);
  EXPECT_EQ(r.stages[0].from, 0.0);
  EXPECT_EQ(r.stages[1].from, 0.5);
  EXPECT_EQ(r.stages[2].rewarm_steps, 7);
  const auto element = [&](std::size_t stage, Operand o) {
    return r.resolve("layers.1.mlp.down", 1, 4, stage)[o].quant.element;
  };
  EXPECT_EQ(element(0, Operand::FpropX), ElementFormat::E4M3);
  EXPECT_EQ(element(1, Operand::FpropX), ElementFormat::BF16);
  EXPECT_EQ(element(1, Operand::DgradDy), ElementFormat::E5M2);
  EXPECT_EQ(element(2, Operand::FpropX), ElementFormat::BF16);
  EXPECT_EQ(element(2, Operand::DgradDy), ElementFormat::BF16);
  EXPECT_FALSE(r.has_monitor());
}

TEST(Recipe, AForwardInBf16TakesAlongWhatBelongsToItsRounding) {
  const Recipe r = parse(R"(
[fprop.x]
element = "e2m1"
trust_mask = true
[fprop.w]
element = "e2m1"
rounding = "reference"
trust_mask = true
[dgrad.dy]
element = "e4m3"
[dgrad.w]
source = "fprop"
[wgrad.dy]
element = "e4m3"
granularity = "column"
fold_partner_scales = true
[wgrad.x]
source = "fprop"
[weight_gradient]
estimator = "dge"
residual = false
[outlier_channels]
share = 0.1
[weight_average]
decay = 0.99
[oscillation_reset]
threshold = 8
[[stages]]
from = 0.8
forward = "bf16"
)");
  const LinearRecipe& before = r.stages[0].linear.back();
  EXPECT_TRUE(before.outlier_channels.enabled() && before.weight_average.enabled() &&
              before.oscillation_reset.enabled() && before[Operand::WgradDy].fold_partner_scales);
  const LinearRecipe& after = r.stages[1].linear.back();
  EXPECT_EQ(after[Operand::FpropX], OperandSpec{});
  EXPECT_EQ(after[Operand::FpropW], OperandSpec{});
  EXPECT_EQ(after[Operand::DgradDy], before[Operand::DgradDy]);
  EXPECT_EQ(after[Operand::DgradW].source, OperandSource::Fprop);
  EXPECT_FALSE(after[Operand::WgradDy].fold_partner_scales);
  EXPECT_EQ(after[Operand::WgradDy].quant, before[Operand::WgradDy].quant);
  EXPECT_EQ(after.weight_gradient.estimator, WeightGradient::Estimator::StraightThrough);
  EXPECT_FALSE(after.outlier_channels.enabled());
  EXPECT_FALSE(after.weight_average.enabled());
  EXPECT_FALSE(after.oscillation_reset.enabled());
}

TEST(Recipe, ABackwardInBf16TakesTheTensorsThemselves) {
  const Recipe r = parse(R"(
[fprop.x]
element = "e2m1"
clamp = { alpha = 0.99, residual = "sparse" }
[wgrad.x]
source = "fprop"
[[stages]]
from = 0.8
backward = "bf16"
)");
  const LinearRecipe& after = r.stages[1].linear.back();
  EXPECT_EQ(after[Operand::FpropX], r.base()[Operand::FpropX]);
  EXPECT_EQ(after[Operand::WgradX], OperandSpec{});
  EXPECT_FALSE(after.residual_in_wgrad) << "X holds its residual already";
  EXPECT_TRUE(r.base().residual_in_wgrad);
}

TEST(Recipe, AStageMayBeginByAMonitor) {
  const Recipe r = parse(
      "[[stages]]\nmonitor = \"gradient-to-noise\"\nbelow = 1.5\npatience = 4\nrewarm_steps = 40\nbackward = "
      "\"bf16\"\n");
  ASSERT_EQ(r.stages.size(), 2U);
  EXPECT_EQ(r.stages[1].monitor, Stage::Monitor::GradientToNoise);
  EXPECT_EQ(r.stages[1].below, 1.5);
  EXPECT_EQ(r.stages[1].patience, 4);
  EXPECT_EQ(r.stages[1].rewarm_steps, 40);
  EXPECT_EQ(r.stages[1].from, 0.0);
  EXPECT_TRUE(r.has_monitor());
}

TEST(Recipe, ExemptionsGoByPatternByBlockAndByShare) {
  Recipe r;
  r.exempt = {"layers.*.mlp.down"};
  r.exempt_first_blocks = 1;
  r.exempt_last_blocks = 2;
  EXPECT_TRUE(r.is_exempt("layers.0.attention.qkv", 0, 8));
  EXPECT_FALSE(r.is_exempt("layers.1.attention.qkv", 1, 8));
  EXPECT_TRUE(r.is_exempt("layers.1.mlp.down", 1, 8));
  EXPECT_FALSE(r.is_exempt("layers.5.attention.qkv", 5, 8));
  EXPECT_TRUE(r.is_exempt("layers.6.attention.qkv", 6, 8));
  Recipe share;
  share.exempt_last_share = 0.15;
  EXPECT_FALSE(share.is_exempt("layers.16.mlp.down", 16, 20));
  EXPECT_TRUE(share.is_exempt("layers.17.mlp.down", 17, 20));
  EXPECT_FALSE(share.is_exempt("layers.2.mlp.down", 2, 3)) << "0.45 of a block is none";
}

TEST(Recipe, ExemptLayersRunInHighPrecisionInEveryStage) {
  const Recipe r = parse(
      "[layers]\nexempt = \"layers.3.*\"\n[fprop.x]\nelement = \"e2m1\"\n[[stages]]\nfrom = 0.5\n"
      "[stages.fprop.x]\nelement = \"e4m3\"\n");
  for (const std::size_t stage : {0U, 1U}) {
    EXPECT_EQ(r.resolve("layers.3.mlp.down", 3, 8, stage)[Operand::FpropX].quant.element, ElementFormat::BF16);
  }
  EXPECT_EQ(r.resolve("layers.2.mlp.down", 2, 8, 1)[Operand::FpropX].quant.element, ElementFormat::E4M3);
}

TEST(Extends, TakesOverWhatIsNotSaidAndReplacesOperandsWhole) {
  const TemporaryDirectory folder;
  folder.write("base.toml", R"(name = "base"
title = "The base"
source = "a paper"
unbiased_gradient = false
[fprop.x]
element = "e2m1"
rounding = "nearest-up"
[fprop.w]
element = "e4m3"
[weight_gradient]
residual = false
[layers]
exempt_first_blocks = 1
)");
  const std::string file =
      folder.write("mine.toml", "name = \"mine\"\nextends = \"base\"\n[fprop.x]\nelement = \"e2m1\"\n");
  const Recipe r = load_recipe(file);
  EXPECT_EQ(r.name, "mine");
  EXPECT_EQ(r.title, "mine") << "the title is the file's own";
  EXPECT_EQ(r.source, "a paper");
  EXPECT_EQ(r.base()[Operand::FpropX].quant.rounding, Rounding::NearestEven);
  EXPECT_EQ(r.base()[Operand::FpropW].quant.element, ElementFormat::E4M3);
  EXPECT_FALSE(r.base().residual_in_wgrad);
  EXPECT_EQ(r.exempt_first_blocks, 1);
}

TEST(Extends, TheFlattenedTextNeedsNoOtherFile) {
  const TemporaryDirectory folder;
  folder.write("a.toml",
               "name = \"a\"\n[fprop.x]\nelement = \"e2m1\"\nclamp = { alpha = 0.97 }\n"
               "[[stages]]\nfrom = 0.25\n[stages.fprop.x]\nelement = \"e4m3\"\n");
  folder.write("b.toml", "name = \"b\"\nextends = \"./a.toml\"\n[fprop.w]\nelement = \"e2m1\"\n");
  const std::string file = folder.write("c.toml", "name = \"c\"\nextends = \"b\"\n[layers]\nexempt = \"x\"\n");
  const Recipe r = load_recipe(file);
  EXPECT_EQ(r.text.find("extends"), std::string::npos);
  const Recipe again = parse_recipe(r.text, "checkpoint");
  EXPECT_EQ(again.text, r.text);
  EXPECT_EQ(again.name, "c");
  EXPECT_TRUE(differences(r, again).empty());
  EXPECT_EQ(again.base()[Operand::FpropX].quant.clamp.alpha, 0.97);
  EXPECT_EQ(again.base()[Operand::FpropW].quant.element, ElementFormat::E2M1);
  ASSERT_EQ(again.stages.size(), 2U);
  EXPECT_EQ(again.exempt, std::vector<std::string>{"x"});
}

TEST(Extends, AMistakeInTheBaseIsBlamedOnTheBase) {
  const TemporaryDirectory folder;
  const std::string base = folder.write("base.toml", "name = \"base\"\n\n[fprop.x]\nelement = \"fp4\"\n");
  const std::string file = folder.write("mine.toml", "name = \"mine\"\nextends = \"base\"\n");
  try {
    load_recipe(file);
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("base.toml:4: key 'fprop.x.element'"), std::string::npos) << e.what();
  }
}

TEST(Extends, CirclesAndMissingFilesAreRefused) {
  const TemporaryDirectory folder;
  folder.write("a.toml", "name = \"a\"\nextends = \"b\"\n");
  const std::string b = folder.write("b.toml", "name = \"b\"\nextends = \"a\"\n");
  const std::string lost = folder.write("lost.toml", "name = \"lost\"\nextends = \"./nowhere.toml\"\n");
  const std::string unknown = folder.write("unknown.toml", "name = \"u\"\nextends = \"nobody-knows\"\n");
  const auto reason = [](const std::string& file) -> std::string {
    try {
      load_recipe(file);
    } catch (const UserError& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_NE(reason(b).find("goes in a circle"), std::string::npos) << reason(b);
  EXPECT_NE(reason(lost).find("lost.toml:2: key 'extends': there is no file"), std::string::npos) << reason(lost);
  EXPECT_NE(reason(unknown).find("unknown.toml:2: key 'extends': "), std::string::npos) << reason(unknown);
}

TEST(FindRecipe, AnUnknownNameGetsTheNearestOne) {
  setenv("NIBBLE_RECIPES", (std::string(NIBBLE_SOURCE_DIR) + "/recipes").c_str(), 1);
  EXPECT_EQ(find_recipe("wang2025").filename(), "wang2025.toml");
  try {
    find_recipe("wang2026");
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("there is no recipe 'wang2026'"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("did you mean 'wang2025'?"), std::string::npos) << e.what();
  }
}

TEST(FindRecipe, SubFoldersAreSearchedAfterTheFolderItself) {
  const TemporaryDirectory folder;
  std::filesystem::create_directory(folder / "deep");
  folder.write("a.toml", "");
  folder.write("deep/a.toml", "");
  folder.write("deep/b.toml", "");
  folder.write("deep/notes.md", "");
  setenv("NIBBLE_RECIPES", folder.path().c_str(), 1);
  EXPECT_EQ(find_recipe("a"), folder / "a.toml");
  EXPECT_EQ(find_recipe("b"), folder / "deep/b.toml");
  const std::vector<std::string> known = known_recipes();
  EXPECT_TRUE(std::is_sorted(known.begin(), known.end()));
  EXPECT_EQ(std::count(known.begin(), known.end(), "a"), 1);
  EXPECT_EQ(std::count(known.begin(), known.end(), "b"), 1);
  EXPECT_EQ(std::count(known.begin(), known.end(), "notes"), 0);
  setenv("NIBBLE_RECIPES", (std::string(NIBBLE_SOURCE_DIR) + "/recipes").c_str(), 1);
}

}  // namespace
}  // namespace nibble
