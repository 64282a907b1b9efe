#include "nibble/recipe/recipe.h"

#include <gtest/gtest.h>
#include <stdlib.h>

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

Recipe shipped(const std::string& name) {
  return load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/" + name + ".toml");
}

TEST(Recipe, EveryShippedFileIsValidAndNamedLikeItsFile) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(NIBBLE_SOURCE_DIR) + "/recipes")) {
    EXPECT_EQ(load_recipe(entry.path()).name, entry.path().stem().string());
    ++count;
  }
  EXPECT_GE(count, 4);
}

TEST(Recipe, DirectFp4DiffersFromWang2025InDgeAndOccAlone) {
  Recipe direct = shipped("fp4-direct");
  const Recipe wang = shipped("wang2025");
  EXPECT_EQ(wang.weight_gradient.estimator, WeightGradient::Estimator::Dge);
  EXPECT_EQ(direct.weight_gradient.estimator, WeightGradient::Estimator::StraightThrough);
  direct[Operand::FpropX].quant.clamp = {0.99, true, ResidualMode::Sparse};
  for (Operand o : kAllOperands) {
    EXPECT_EQ(direct[o].quant, wang[o].quant) << operand_name(o);
    EXPECT_EQ(direct[o].from_fprop, wang[o].from_fprop) << operand_name(o);
    EXPECT_EQ(direct[o].fold_partner_scales, wang[o].fold_partner_scales) << operand_name(o);
  }
}

TEST(Recipe, ReleasedWang2025HasTheReleasesDeviations) {
  const Recipe r = shipped("wang2025-released");
  const QuantSpec& x = r[Operand::FpropX].quant;
  EXPECT_EQ(x.scale, ScaleRule::AbsmaxPow2);
  EXPECT_EQ(x.clamp, (Clamp{0.99, true, ResidualMode::None}));
  EXPECT_EQ(x.carrier, ElementFormat::E4M3);
  EXPECT_EQ(r[Operand::FpropW].quant.granularity, Granularity::per_column());
  EXPECT_EQ(r[Operand::DgradDy].quant.element, ElementFormat::E5M2);
  EXPECT_EQ(r[Operand::DgradDy].quant.granularity, Granularity::per_tensor());
}

TEST(Recipe, WrongKeyNamesFileLineAndNearestName) {
  EXPECT_EQ(refusal("name = \"x\"\n[fprop.x]\nelement = \"e2m1\"\nscal = \"absmax\"\n").substr(0, 79),
            "r.toml:4: key 'fprop.x.scal': is not known here; did you mean 'scale'? (known: ");
}

TEST(Recipe, WrongValueNamesTheAllowedOnes) {
  EXPECT_EQ(refusal("name = \"x\"\n[fprop.x]\nelement = \"fp4\"\n"),
            "r.toml:3: key 'fprop.x.element': 'fp4' is not one of f32, bf16, e2m1, e4m3, e5m2");
  EXPECT_NE(
      refusal("name = \"x\"\n[fprop.x]\nelement = \"e2m1\"\ngranularity = \"1y32\"\n").find("row, column, tensor"),
      std::string::npos);
  EXPECT_NE(refusal("name = 3\n").find("must be a string, not an integer"), std::string::npos);
  EXPECT_NE(refusal("name = \"x\"\n[layers]\nexempt_last_blocks = -1\n").find("must be 0 to"), std::string::npos);
}

TEST(Recipe, WrongSyntaxNamesTheLine) { EXPECT_EQ(refusal("name = \"x\"\n[fprop\n").substr(0, 9), "r.toml:2:"); }

TEST(Recipe, SenselessCombinationsAreRefusedWithTheReason) {
  const auto operand = [](const std::string& which, const std::string& body) {
    return refusal("name = \"x\"\n[" + which + "]\n" + body);
  };
  EXPECT_NE(operand("fprop.x", "element = \"e4m3\"\nrounding = \"stochastic\"\n").find("for e2m1"), std::string::npos);
  EXPECT_NE(operand("fprop.x", "element = \"e2m1\"\nscale = \"nvfp4\"\n").find("granularity = \"1x16\""),
            std::string::npos);
  EXPECT_NE(operand("fprop.x", "element = \"bf16\"\nscale = \"absmax\"\n").find("without a scale"), std::string::npos);
  EXPECT_NE(
      operand("fprop.w", "element = \"e2m1\"\nclamp = { alpha = 0.99, residual = \"sparse\" }\n").find("fprop.x only"),
      std::string::npos);
  EXPECT_NE(operand("fprop.x", "element = \"e2m1\"\nclamp = { alpha = 0.3 }\n").find("0.5"), std::string::npos);
  EXPECT_NE(operand("weight_gradient", "estimator = \"dge\"\n").find("fprop.w must have element"), std::string::npos);
  EXPECT_NE(operand("dgrad.dy", "element = \"e4m3\"\nfold_partner_scales = true\n").find("one absmax scale a row"),
            std::string::npos);
  EXPECT_NE(operand("dgrad.w", "source = \"fprop\"\nelement = \"e2m1\"\n").find("element"), std::string::npos);
}

TEST(Recipe, ExemptionsGoByPatternAndByBlock) {
  Recipe r;
  r.exempt = {"layers.*.mlp.down"};
  r.exempt_first_blocks = 1;
  r.exempt_last_blocks = 2;
  EXPECT_TRUE(r.is_exempt("layers.0.attention.qkv", 0, 8));
  EXPECT_FALSE(r.is_exempt("layers.1.attention.qkv", 1, 8));
  EXPECT_TRUE(r.is_exempt("layers.1.mlp.down", 1, 8));
  EXPECT_FALSE(r.is_exempt("layers.5.attention.qkv", 5, 8));
  EXPECT_TRUE(r.is_exempt("layers.6.attention.qkv", 6, 8));
}

TEST(Recipe, AnUnknownNameGetsTheNearestOne) {
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

}  // namespace
}  // namespace nibble
