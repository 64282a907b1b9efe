// Every combination that parsing refuses, by the sentence it refuses it with.
#include <gtest/gtest.h>

#include "nibble/recipe/recipe.h"
#include "nibble/tensor/error.h"

namespace nibble {
namespace {

std::string refusal(const std::string& text) {
  try {
    parse_recipe(text, "r.toml");
  } catch (const UserError& e) {
    return e.what();
  }
  return "accepted";
}

/// A recipe with these tables is refused in line `line` with a sentence that holds `expected`.
void expect_refused(int line, const std::string& expected, const std::string& tables) {
  SCOPED_TRACE(tables);
  const std::string said = refusal("name = \"x\"\n" + tables);
  EXPECT_NE(said.find(expected), std::string::npos) << said;
  EXPECT_EQ(said.substr(0, said.find(": ")), "r.toml:" + std::to_string(line)) << said;
}

TEST(Refusal, ElementFormatsAndTheirRules) {
  expect_refused(4, "e4m3 elements round nearest-even; the other rules are for 4-bit elements",
                 "[fprop.x]\nelement = \"e4m3\"\nrounding = \"stochastic\"\n");
  expect_refused(4, "'stochastic-8bit' is for e2m1 elements; int4 rounds to nearest or stochastic",
                 "[fprop.x]\nelement = \"int4\"\nrounding = \"stochastic-8bit\"\n");
  expect_refused(4, "'quest-floor' is a rule for e2m1 elements, not for int4",
                 "[fprop.x]\nelement = \"int4\"\nscale = \"quest-floor\"\n");
  expect_refused(4, "'nvfp4' is a rule for e2m1 elements, not for e4m3",
                 "[fprop.x]\nelement = \"e4m3\"\nscale = \"nvfp4\"\ngranularity = 16\n");
  expect_refused(4, "'sawb' is a rule for int4 elements, not for e2m1",
                 "[fprop.x]\nelement = \"e2m1\"\nscale = \"sawb\"\n");
  expect_refused(4, "'range-match34' leaves 1.5 powers of two at the top",
                 "[fprop.x]\nelement = \"e3m0\"\nscale = \"range-match34\"\ngranularity = 32\n");
  expect_refused(4, "is for 4-bit elements, not for e5m2", "[fprop.x]\nelement = \"e5m2\"\ncarrier = \"e4m3\"\n");
  expect_refused(4, "bf16 elements are stored without a scale", "[fprop.x]\nelement = \"bf16\"\nscale = \"absmax\"\n");
  expect_refused(4, "goes with element = \"e3m0\" only", "[fprop.x]\nelement = \"e2m1\"\nlog_steps = 3\n");
}

TEST(Refusal, BlocksNotAlongTheContraction) {
  expect_refused(4, "'nvfp4' scales blocks: write granularity = 16",
                 "[fprop.x]\nelement = \"e2m1\"\nscale = \"nvfp4\"\n");
  expect_refused(4, "'ceil6' scales blocks: write granularity = 32",
                 "[fprop.x]\nelement = \"e2m1\"\nscale = \"ceil6\"\ngranularity = \"tensor\"\n");
  expect_refused(5, "blocks of 'ceil6' lie along the contraction, which for fprop.x runs along the rows of X",
                 "[fprop.x]\nelement = \"e2m1\"\nscale = \"ceil6\"\ngranularity = \"32x1\"\n");
  expect_refused(5, "blocks of 'nvfp4' lie along the contraction, which for wgrad.dy runs down the columns of dY",
                 "[wgrad.dy]\nelement = \"e2m1\"\nscale = \"nvfp4\"\ngranularity = \"1x16\"\n");
  expect_refused(5, "which for dgrad.w runs down the columns of W",
                 "[dgrad.w]\nelement = \"e2m1\"\nscale = \"nvfp4\"\ngranularity = \"8x16\"\n");
}

TEST(Refusal, Nvfp4Parameters) {
  const std::string head = "[fprop.x]\nelement = \"e2m1\"\ngranularity = 16\nscale = \"nvfp4\"\n";
  expect_refused(6, "four-over-six multiplies scales by 1.5", head + "nvfp4 = { select = \"mse\" }\n");
  expect_refused(6, "is not an E4M3 number", head + "nvfp4 = { zero_scale = 0.3 }\n");
  expect_refused(6, "outer = 24, which must be a multiple of blocks of one row", head + "nvfp4 = { outer = 24 }\n");
  expect_refused(6, "'largest' is not one of none, mse, mae, max-abs", head + "nvfp4 = { select = \"largest\" }\n");
  expect_refused(
      5, "outer = 128, which must be a multiple of blocks of one row",
      "[fprop.w]\nelement = \"e2m1\"\nscale = \"nvfp4\"\nnvfp4 = { outer = 128 }\ngranularity = \"16x16\"\n");
  expect_refused(5, "four-over-six is for blocks of at most 64",
                 "[fprop.w]\nelement = \"e2m1\"\nscale = \"nvfp4\"\ngranularity = \"128x128\"\n"
                 "nvfp4 = { scale_max = 256, select = \"mae\" }\n");
  expect_refused(4, "goes with scale = \"nvfp4\" only", "[fprop.x]\nelement = \"e2m1\"\nnvfp4 = { outer = 128 }\n");
}

TEST(Refusal, Eden) {
  expect_refused(4, "'eden' corrects the E4M3 scales of NVFP4 blocks",
                 "[dgrad.dy]\nelement = \"e2m1\"\nrounding = \"eden\"\n");
  expect_refused(6, "'eden' corrects the E4M3 scales of NVFP4 blocks",
                 "[dgrad.dy]\nelement = \"e2m1\"\nscale = \"nvfp4\"\ngranularity = 32\nrounding = \"eden\"\n");
  expect_refused(6, "'eden' cannot go with four-over-six",
                 "[dgrad.dy]\nelement = \"e2m1\"\nscale = \"nvfp4\"\ngranularity = 16\nrounding = \"eden\"\n"
                 "nvfp4 = { scale_max = 255.99, select = \"mse\" }\n");
  expect_refused(7, "is 24, must be a multiple of 16",
                 "[dgrad.dy]\nelement = \"e2m1\"\nscale = \"nvfp4\"\ngranularity = 16\nrounding = \"eden\"\n"
                 "eden_group = 24\n");
  expect_refused(4, "goes with rounding = \"eden\" only", "[dgrad.dy]\nelement = \"e2m1\"\neden_group = 32\n");
}

TEST(Refusal, Clamps) {
  expect_refused(4, "a sparse residual is defined for fprop.x only",
                 "[fprop.w]\nelement = \"e2m1\"\nclamp = { alpha = 0.99, residual = \"sparse\" }\n");
  expect_refused(4, "0.5", "[fprop.x]\nelement = \"e2m1\"\nclamp = { alpha = 0.3 }\n");
  expect_refused(5, "cannot go with a sparse residual: the residual is a product of its own",
                 "[fprop.x]\nelement = \"e2m1\"\nclamp = { residual = \"sparse\" }\ncarrier = \"e4m3\"\n");
  expect_refused(5, "cannot go with a dense residual: the sum of both is a BF16 operand",
                 "[fprop.x]\nelement = \"e2m1\"\nclamp = { residual = \"dense\" }\ncarrier = \"e4m3\"\n");
  expect_refused(5, "cannot go with a sparse residual, which is multiplied by the weight as it is",
                 "[fprop.x]\nelement = \"e2m1\"\nclamp = { residual = \"sparse\" }\nhadamard = { group = 16 }\n");
  expect_refused(5, "cannot go with a fused residual: the elements that hold both are E4M3 already",
                 "[fprop.x]\nelement = \"e2m1\"\nclamp = { residual = \"fused\" }\ncarrier = \"e4m3\"\n");
  expect_refused(4, "a fused residual is for e2m1 elements, which E4M3 holds exactly, not for int4",
                 "[fprop.x]\nelement = \"int4\"\nclamp = { residual = \"fused\" }\n");
  for (const char* blocks : {"granularity = \"column\"", "granularity = 32", "granularity = 32\nscale = \"ceil6\"",
                             "scale = \"quest-exact\""}) {
    SCOPED_TRACE(blocks);
    expect_refused(4, "from whose product the scales must be left out",
                   std::string("[fprop.x]\nelement = \"e2m1\"\nclamp = { residual = \"fused\" }\n") + blocks + "\n");
  }
  expect_refused(5, "it marks what the e2m1 grid cuts off, which is kept",
                 "[fprop.x]\nelement = \"e2m1\"\nclamp = { residual = \"fused\" }\ntrust_mask = true\n");
  expect_refused(8, "leaves X's residual out of wgrad, but wgrad.x takes fprop's elements",
                 "[fprop.x]\nelement = \"e2m1\"\nclamp = { residual = \"fused\" }\n[wgrad.x]\nsource = \"fprop\"\n"
                 "[weight_gradient]\nresidual = false\n");
  expect_refused(6, "wgrad then must not add once more",
                 "[fprop.x]\nelement = \"e2m1\"\nclamp = { residual = \"sparse\" }\n[wgrad.x]\nsource = "
                 "\"high-precision\"\n");
}

TEST(Refusal, TransformsThatDoNotCancel) {
  expect_refused(4, "needs the same transform of fprop.w, or it does not cancel in the product",
                 "[fprop.x]\nelement = \"e2m1\"\nhadamard = { group = 32 }\n");
  expect_refused(6, "needs the same transform of fprop.x",
                 "[fprop.x]\nelement = \"e2m1\"\n[fprop.w]\nelement = \"e2m1\"\nhadamard = { group = 32 }\n");
  const std::string x = "[fprop.x]\nelement = \"e2m1\"\nhadamard = { group = 32 }\n";
  for (const char* other : {"group = 16", "group = 32, signs = \"step\"", "group = 32, signs_last = true"}) {
    expect_refused(4,
                   "differs from that of fprop.w: the two operands of a product need the same group, signs and order",
                   x + "[fprop.w]\nelement = \"e2m1\"\nhadamard = { " + other + " }\n");
  }
  expect_refused(4, "with source = \"fprop\" there is none along this contraction",
                 "[dgrad.dy]\nelement = \"e2m1\"\nhadamard = { group = 32 }\n[dgrad.w]\nsource = \"fprop\"\n");
  expect_refused(4, "is 24, must be a power of two", "[fprop.x]\nelement = \"e2m1\"\nhadamard = { group = 24 }\n");
  expect_refused(4, "it goes with group = 16",
                 "[fprop.x]\nelement = \"e2m1\"\nhadamard = { group = 32, signs = \"vector\" }\n");
  expect_refused(4, "fprop.w is quantised once a step, so write \"step\"",
                 "[fprop.x]\nelement = \"e2m1\"\nhadamard = { group = 32, signs = \"call\" }\n");
}

TEST(Refusal, ATransformOfFpropIsNoneOfTheBackwardThatTakesItsOperands) {
  EXPECT_EQ(
      refusal("name = \"x\"\n[fprop.x]\nelement = \"e2m1\"\nhadamard = { group = 32 }\n[fprop.w]\nelement = "
              "\"e2m1\"\nhadamard = { group = 32 }\n[dgrad.w]\nsource = \"fprop\"\n[wgrad.x]\nsource = \"fprop\"\n"),
      "accepted");
}

TEST(Refusal, Folds) {
  expect_refused(4, "needs dgrad.w to have one absmax scale a row and no carrier",
                 "[dgrad.dy]\nelement = \"e4m3\"\nfold_partner_scales = true\n");
  expect_refused(5, "cannot go with blocks or a transform along the contraction of wgrad.dy",
                 "[wgrad.dy]\nelement = \"e4m3\"\ngranularity = 32\nfold_partner_scales = true\n");
  expect_refused(5, "cannot go with a transform of dY",
                 "[dgrad.dy]\nelement = \"e2m1\"\nhadamard = { group = 16 }\nfold_partner_scales = true\n[dgrad.w]\n"
                 "element = \"e2m1\"\nhadamard = { group = 16 }\n");
  expect_refused(4, "goes with dgrad.dy and wgrad.dy only",
                 "[fprop.x]\nelement = \"e2m1\"\nfold_partner_scales = true\n");
  const std::string fold = "[wgrad.dy]\nelement = \"e4m3\"\ngranularity = \"column\"\nfold_partner_scales = true\n";
  for (const char* x :
       {"granularity = \"tensor\"", "granularity = 32\nscale = \"ceil6\"", "granularity = \"row\"\ncarrier = \"e4m3\"",
        "granularity = \"row\"\nclamp = { residual = \"dense\" }"}) {
    expect_refused(5, "needs wgrad.x to have one absmax scale a row and no carrier",
                   fold + "[wgrad.x]\nsource = \"fprop\"\n[fprop.x]\nelement = \"e2m1\"\n" + x + "\n");
  }
}

TEST(Refusal, Sources) {
  expect_refused(4, "cannot go with source = \"fprop\", which takes what fprop quantised",
                 "[dgrad.w]\nsource = \"fprop\"\nelement = \"e2m1\"\n");
  expect_refused(4, "cannot go with source = \"fprop\"", "[wgrad.x]\nsource = \"fprop\"\nrounding = \"stochastic\"\n");
  expect_refused(3, "goes with dgrad.w and wgrad.x only", "[fprop.x]\nsource = \"fprop\"\n");
  expect_refused(3, "'requantise' needs an element format to quantise to, not bf16",
                 "[dgrad.w]\nsource = \"requantise\"\n");
  expect_refused(5, "with source = \"requantise\" the input is quantised already",
                 "[dgrad.w]\nsource = \"requantise\"\nelement = \"e2m1\"\nbf16_input = true\n");
}

TEST(Refusal, WhatBelongsToOneOperandOnly) {
  expect_refused(4, "is for fprop.x and fprop.w, whose gradients it masks",
                 "[dgrad.dy]\nelement = \"e2m1\"\ntrust_mask = true\n");
  expect_refused(4, "is for e2m1 elements", "[fprop.x]\nelement = \"int4\"\ntrust_mask = true\n");
  expect_refused(4, "it is for fprop.w", "[fprop.x]\nelement = \"e2m1\"\nrounding = \"reference\"\n");
  expect_refused(4, "goes with wgrad.dy only", "[dgrad.dy]\nelement = \"e2m1\"\nsamples = 2\n");
  expect_refused(4, "it goes with stochastic rounding only", "[wgrad.dy]\nelement = \"e2m1\"\nsamples = 2\n");
}

TEST(Refusal, WeightGradientAverageAndReset) {
  expect_refused(3, "fprop.w must have element = \"e2m1\"", "[weight_gradient]\nestimator = \"dge\"\n");
  expect_refused(5, "fprop.w must have element = \"e2m1\"",
                 "[fprop.w]\nelement = \"int4\"\n[weight_gradient]\nestimator = \"dge\"\n");
  expect_refused(4, "add a table [weight_average]", "[fprop.w]\nelement = \"e2m1\"\nrounding = \"reference\"\n");
  expect_refused(3, "nothing reads the average", "[weight_average]\ndecay = 0.9\n");
  expect_refused(3, "which is not a 4-bit operand", "[oscillation_reset]\nthreshold = 8\n");
  expect_refused(9, "other signs each step",
                 "[fprop.x]\nelement = \"e2m1\"\nhadamard = { group = 16, signs = \"step\" }\n"
                 "[fprop.w]\nelement = \"e2m1\"\nhadamard = { group = 16, signs = \"step\" }\n"
                 "[oscillation_reset]\nthreshold = 8\n");
  expect_refused(5, "'edge' goes by the bins of e2m1",
                 "[fprop.w]\nelement = \"int4\"\n[oscillation_reset]\ncriterion = \"edge\"\n");
  expect_refused(6, "longer than period",
                 "[fprop.w]\nelement = \"e2m1\"\n[oscillation_reset]\nperiod = 20\nwindow = 30\n");
}

TEST(Refusal, OutlierChannels) {
  expect_refused(3, "a quantised fprop.x, which is not", "[outlier_channels]\nshare = 0.1\n");
  expect_refused(9, "a transform of fprop.x, which mixes the channels",
                 "[fprop.x]\nelement = \"e2m1\"\nhadamard = { group = 16 }\n"
                 "[fprop.w]\nelement = \"e2m1\"\nhadamard = { group = 16 }\n"
                 "[outlier_channels]\nshare = 0.1\n");
  expect_refused(12, "scales folded into dgrad.dy",
                 "[fprop.x]\nelement = \"e2m1\"\n[fprop.w]\nelement = \"e2m1\"\n[dgrad.dy]\nelement = \"e4m3\"\n"
                 "fold_partner_scales = true\n[dgrad.w]\nsource = \"fprop\"\n[outlier_channels]\nshare = 0.1\n");
  expect_refused(6, "is 5, before first_step = 9",
                 "[fprop.x]\nelement = \"e2m1\"\n[outlier_channels]\nfirst_step = 9\nlast_step = 5\n");
  expect_refused(5, "must be a format with a scale",
                 "[fprop.x]\nelement = \"e2m1\"\n[outlier_channels]\nelement = \"bf16\"\n");
}

TEST(Refusal, StagesAndModules) {
  expect_refused(2, "a stage begins at a share of the run", "[[stages]]\nforward = \"bf16\"\n");
  expect_refused(3, "stages ascend", "[[stages]]\nfrom = 0\nforward = \"bf16\"\n");
  expect_refused(5, "is 0.4, but the stage before it begins at 0.5: stages ascend",
                 "[[stages]]\nfrom = 0.5\n[[stages]]\nfrom = 0.4\n");
  expect_refused(5, "stages ascend", "[[stages]]\nfrom = 0.5\n[[stages]]\nfrom = 0.5\n");
  expect_refused(4, "goes with a monitor only", "[[stages]]\nfrom = 0.5\nbelow = 2\n");
  expect_refused(2, "must be given, and positive", "[[stages]]\nmonitor = \"gradient-to-noise\"\n");
  expect_refused(2, "write [[stages]]", "[stages]\nfrom = 0.5\n");
  expect_refused(3, "'fp8' is not one of bf16, f32", "[[stages]]\nforward = \"fp8\"\nfrom = 0.5\n");
  expect_refused(2, "name the layers that the rule is for", "[[modules]]\nforward = \"bf16\"\n");
  expect_refused(4, "is not known here", "[[modules]]\nlayers = \"*\"\nfrom = 0.5\n");
}

TEST(Refusal, WhatIsWrongInOneStageOrModuleOnlySaysSo) {
  expect_refused(3, "fprop.w must have element = \"e2m1\" (in the stage from 0.5)",
                 "[weight_gradient]\nestimator = \"dge\"\n[fprop.w]\nelement = \"e2m1\"\n"
                 "[[stages]]\nfrom = 0.5\n[stages.fprop.w]\nelement = \"bf16\"\n");
  expect_refused(3, "(for layers.0.*, *.down)",
                 "[weight_gradient]\nestimator = \"dge\"\n[fprop.w]\nelement = \"e2m1\"\n"
                 "[[modules]]\nlayers = [\"layers.0.*\", \"*.down\"]\n[modules.fprop.w]\nelement = \"bf16\"\n");
}

TEST(Refusal, WhatBreaksAClaimOfUnbiasedness) {
  const std::string claim = "unbiased_gradient = true\n";
  const auto biased = [&](int line, const std::string& expected, const std::string& tables) {
    expect_refused(line, expected, claim + tables);
    expect_refused(line, "but the recipe says unbiased_gradient = true", claim + tables);
    EXPECT_EQ(refusal("name = \"x\"\n" + tables), "accepted") << tables;
  };
  const std::string fp4 = "[dgrad.dy]\nelement = \"e2m1\"\ngranularity = 16\n";
  biased(3, "'nearest-even' is biased", fp4);
  biased(6, "'nearest-up' is biased", fp4 + "rounding = \"nearest-up\"\n");
  biased(6, "its mean is low", fp4 + "rounding = \"stochastic-8bit\"\n");
  biased(3, "clips the block's maximum", fp4 + "rounding = \"stochastic\"\nscale = \"nvfp4\"\n");
  biased(8, "four-over-six chooses by error",
         fp4 +
             "rounding = \"stochastic\"\nscale = \"nvfp4\"\nnvfp4 = { val_max = \"96/17\", scale_max = 256, select = "
             "\"mse\" }\n");
  for (const char* rule : {"ocp-floor", "nearest6", "quest-floor", "quest-nearest", "quest-ceil", "quest-exact"}) {
    biased(7, "clips, and what is clipped biases", fp4 + "rounding = \"stochastic\"\nscale = \"" + rule + "\"\n");
  }
  biased(7, "a clamp biases", fp4 + "rounding = \"stochastic\"\nclamp = { alpha = 0.99 }\n");
  biased(7, "the carrier rounds to nearest", fp4 + "rounding = \"stochastic\"\ncarrier = \"e4m3\"\n");
  biased(7, "'eden' is unbiased only under a randomised Hadamard transform",
         fp4 + "scale = \"nvfp4\"\nrounding = \"eden\"\n");
  biased(3, "'nearest-even' is biased", "[wgrad.x]\nelement = \"e4m3\"\n");
}

TEST(Refusal, NoneOfAnUnbiasedBackward) {
  for (const char* rule : {"scale = \"range-match34\"", "scale = \"ceil6\"", "scale = \"absmax\"",
                           "scale = \"nvfp4\"\nnvfp4 = { val_max = \"96/17\" }"}) {
    EXPECT_EQ(refusal(std::string("name = \"x\"\nunbiased_gradient = true\n[fprop.w]\nelement = \"e2m1\"\n"
                                  "[dgrad.w]\nsource = \"fprop\"\n[dgrad.dy]\nelement = \"e2m1\"\ngranularity = 16\n"
                                  "rounding = \"stochastic\"\n") +
                      rule + "\n"),
              "accepted")
        << "what fprop quantised serves again, however it was rounded: " << rule;
  }
}

}  // namespace
}  // namespace nibble
