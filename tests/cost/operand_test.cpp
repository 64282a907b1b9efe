#include "nibble/cost/operand.h"

#include <gtest/gtest.h>

#include "tests/cost/cost_testing.h"

namespace nibble {
namespace {

Unit unit(const Recipe& recipe, Product product, const DeviceSpec& on) {
  return product_path(recipe.base(), product, on).unit;
}

TEST(ProductPath, HopperRunsVectorWiseFp4OnFp8AndNvfp4OnBf16) {
  const DeviceSpec h100 = device("h100-sxm");
  for (const Product product : kAllProducts) {
    SCOPED_TRACE(product_name(product));
    EXPECT_EQ(unit(vector_recipe(), product, h100), Unit::Fp8);
    EXPECT_EQ(unit(block_recipe(mxfp4), product, h100), Unit::Fp8);
    EXPECT_EQ(unit(block_recipe(nvfp4), product, h100), Unit::Bf16);
    EXPECT_EQ(unit(reference_fp8(), product, h100), Unit::Fp8);
  }
  EXPECT_NE(product_path(block_recipe(mxfp4).base(), Product::Fprop, h100).why.find("range check"), std::string::npos);
}

TEST(ProductPath, BlackwellRunsBlockScaledFp4Natively) {
  const DeviceSpec b200 = device("b200");
  for (const Product product : kAllProducts) {
    SCOPED_TRACE(product_name(product));
    EXPECT_EQ(unit(vector_recipe(), product, b200), Unit::Fp4);
    EXPECT_EQ(unit(block_recipe(mxfp4), product, b200), Unit::Fp4);
    EXPECT_EQ(unit(block_recipe(nvfp4), product, b200), Unit::Fp4);
    EXPECT_EQ(unit(reference_fp8(), product, b200), Unit::Fp8);
  }
}

TEST(ProductPath, AScaleForEveryElementOfTheSumMeansDecoding) {
  Recipe recipe = vector_recipe();
  linear_of(recipe)[Operand::DgradDy].fold_partner_scales = false;
  EXPECT_EQ(unit(recipe, Product::Dgrad, device("b200")), Unit::Bf16);
  EXPECT_EQ(unit(recipe, Product::Fprop, device("b200")), Unit::Fp4);
}

TEST(ProductPath, TheWiderOperandDecides) {
  Recipe recipe = vector_recipe();
  linear_of(recipe)[Operand::FpropX].quant = QuantSpec{};  // BF16
  EXPECT_EQ(unit(recipe, Product::Fprop, device("b200")), Unit::Bf16);
  EXPECT_EQ(product_bits(recipe.base(), Product::Fprop), 16);
  linear_of(recipe)[Operand::FpropX].quant.element = ElementFormat::E4M3;
  linear_of(recipe)[Operand::FpropX].quant.scale = ScaleRule::Absmax;
  EXPECT_EQ(unit(recipe, Product::Fprop, device("b200")), Unit::Fp8);
  EXPECT_EQ(product_bits(recipe.base(), Product::Fprop), 8);
}

TEST(ProductPath, ACarrierIsWhatIsMultiplied) {
  Recipe recipe = vector_recipe();
  for (const Operand o : {Operand::FpropX, Operand::FpropW}) linear_of(recipe)[o].quant.carrier = ElementFormat::E4M3;
  EXPECT_EQ(unit(recipe, Product::Fprop, device("b200")), Unit::Fp8);
  EXPECT_EQ(product_bits(recipe.base(), Product::Fprop), 4);
}

TEST(ProductPath, ADenseResidualMakesABf16Operand) {
  Recipe recipe = vector_recipe();
  linear_of(recipe)[Operand::FpropX].quant.clamp = {0.99, true, ResidualMode::Dense};
  EXPECT_EQ(unit(recipe, Product::Fprop, device("b200")), Unit::Bf16);
}

TEST(ProductPath, AFusedResidualMakesAnE4m3Operand) {
  Recipe recipe = vector_recipe();
  linear_of(recipe)[Operand::FpropX].quant.clamp = {0.99, true, ResidualMode::Fused};
  for (const char* name : {"h100-sxm", "b200"}) {
    EXPECT_EQ(unit(recipe, Product::Fprop, device(name)), Unit::Fp8);
    EXPECT_EQ(unit(recipe, Product::Wgrad, device(name)), Unit::Fp8);
  }
  EXPECT_EQ(product_bits(recipe.base(), Product::Fprop), 8);
  EXPECT_EQ(residual_density(recipe.base()), 0);
}

TEST(ProductPath, TheTwoBlockFormatsDoNotMix) {
  Recipe recipe = block_recipe(mxfp4);
  linear_of(recipe)[Operand::FpropW].quant = nvfp4();
  EXPECT_EQ(unit(recipe, Product::Fprop, device("b200")), Unit::Bf16);
}

TEST(ProductPath, ACpuMultipliesFourBitCodesAsIntegers) {
  DeviceSpec cpu = device("h100-sxm");
  cpu.is_cpu = true;
  for (double& peak : cpu.peak) peak = 0;
  cpu.peak[static_cast<std::size_t>(Unit::F32)] = 1e11;
  EXPECT_EQ(unit(vector_recipe(), Product::Fprop, cpu), Unit::F32);
  cpu.peak[static_cast<std::size_t>(Unit::Int8)] = 4e11;
  EXPECT_EQ(unit(vector_recipe(), Product::Fprop, cpu), Unit::Int8);
  EXPECT_EQ(unit(reference_fp8(), Product::Fprop, cpu), Unit::F32);
  const ProductPath blocks = product_path(block_recipe(nvfp4).base(), Product::Fprop, cpu);
  EXPECT_EQ(blocks.unit, Unit::Int8);
  EXPECT_LT(blocks.share, product_path(block_recipe(mxfp4).base(), Product::Fprop, cpu).share);
}

TEST(StageShares, AddUpToOneAndFollowTheFractions) {
  Recipe recipe = vector_recipe();
  recipe.stages.push_back(recipe.stages.front());
  recipe.stages.push_back(recipe.stages.front());
  recipe.stages[1].from = 0.25;
  recipe.stages[2].monitor = Stage::Monitor::GradientToNoise;
  const std::vector<StageShare> shares = stage_shares(recipe, 0.9);
  ASSERT_EQ(shares.size(), 3u);
  EXPECT_DOUBLE_EQ(shares[0].share, 0.25);
  EXPECT_DOUBLE_EQ(shares[1].share, 0.65);
  EXPECT_NEAR(shares[2].share, 0.1, 1e-12);
  EXPECT_EQ(stage_shares(recipe, 1.0).size(), 2u);  // a monitored stage that never begins
}

TEST(OutlierColumns, AreRoundedUpToTheMultiple) {
  Recipe recipe = vector_recipe();
  EXPECT_EQ(outlier_columns(recipe.base(), 2048), 0);
  linear_of(recipe).outlier_channels.share = 0.1;
  EXPECT_EQ(outlier_columns(recipe.base(), 2048), 256);
  EXPECT_EQ(outlier_columns(recipe.base(), 64), 64);
}

TEST(BlockLinears, CoverAllWeightsOfABlock) {
  const LlamaConfig model = model_1b();
  double weights = 0;
  for (const LinearShape& shape : block_linears(model)) weights += shape.weights();
  EXPECT_EQ(weights * 24 + 24 * 2 * 2048 + 2048, static_cast<double>(model.non_embedding_parameters()));
}

TEST(Devices, EveryFileHasConsistentFigures) {
  for (const char* name : {"h100-sxm", "h200", "b200", "b300", "rtx-5090", "rtx-pro-6000"}) {
    SCOPED_TRACE(name);
    const DeviceSpec d = device(name);
    EXPECT_EQ(d.name, name);
    EXPECT_GT(d.rate(Unit::Fp8), d.rate(Unit::Bf16));
    if (d.has(Unit::Fp4)) {
      EXPECT_GT(d.rate(Unit::Fp4), d.rate(Unit::Fp8));
    }
    EXPECT_GT(d.usd_per_hour, 0);
    for (const auto& [table, source] : d.sources) EXPECT_GT(source.size(), 10u) << table;
  }
  EXPECT_FALSE(device("h100-sxm").has(Unit::Fp4));
  EXPECT_FALSE(device("h200").has(Unit::Fp4));
  // B300 has more FP4 than twice its FP8, unlike B200.
  EXPECT_GT(device("b300").peak[0], 2.5 * device("b300").peak[1]);
}

TEST(Devices, AMistakeInAFileNamesTheKey) {
  try {
    parse_device("name = \"x\"\n[peak]\nbf16 = 1\nf32 = 1\nsource = \"s\"\n[achieved]\nbf16 = 1.5\n", "x.toml");
    FAIL() << "a share above 1 was taken";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("achieved.bf16"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace nibble
