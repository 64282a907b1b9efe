// The figures that papers print, from the formulas that produce them.
#include "nibble/cost/published.h"

#include <gtest/gtest.h>

#include "nibble/cost/memory.h"
#include "nibble/cost/operand.h"

namespace nibble {
namespace {

constexpr WangSpeedup kWang{.width = 4096, .seq = 2048, .alpha = 0.99};

TEST(Published, WangIdealSpeedupIs3_12) {
  EXPECT_NEAR(kWang.ideal(), 3.1155, 5e-5);
  EXPECT_DOUBLE_EQ(kWang.ideal(), 108580.0 / 34852.0);
}

TEST(Published, WangDgeIsAThousandth) { EXPECT_NEAR(100 * kWang.dge_share(), 0.092, 5e-4); }

TEST(Published, WangPrintedFormulaAndPrintedFigureDiffer) {
  EXPECT_NEAR(kWang.printed_formula(), 3.027, 5e-4);
  EXPECT_NEAR(100 * kWang.printed_formula_occ_share(), 2.82, 5e-3);
  EXPECT_NEAR(kWang.printed_figure(), 2.9465, 5e-5);
  EXPECT_NEAR(100 * kWang.printed_figure_occ_share(), 5.64, 5e-3);
}

TEST(Published, WithoutAClampOccCostsNothing) {
  const WangSpeedup none{.width = 4096, .seq = 2048, .alpha = 1};
  EXPECT_DOUBLE_EQ(none.printed_formula(), none.printed_figure());
  EXPECT_DOUBLE_EQ(none.printed_formula_occ_share(), 0);
}

TEST(Published, ZhouForwardSharesAre57And29And14PerCent) {
  const ZhouCost llama7b{.width = 4096, .ffn = 11008, .seq = 4096};
  EXPECT_NEAR(100 * llama7b.ffn_share(), 57, 0.4);
  EXPECT_NEAR(100 * llama7b.attention_linear_share(), 28.7, 0.4);
  EXPECT_NEAR(100 * llama7b.core_share(), 14.3, 0.1);
  // The printed shares are those of f = 8 d / 3 exactly: 4/7, 2/7, 1/7.
  const ZhouCost exact{.width = 3, .ffn = 8, .seq = 3};
  EXPECT_DOUBLE_EQ(exact.ffn_share(), 4.0 / 7);
  EXPECT_DOUBLE_EQ(exact.attention_linear_share(), 2.0 / 7);
}

TEST(Published, ZhouRatiosFollowFromTheRates) {
  const ZhouCost exact{.width = 3, .ffn = 8, .seq = 3};
  EXPECT_DOUBLE_EQ(exact.relative(1, 1, 1), 1);
  EXPECT_NEAR(exact.relative(4, 4, 4), 2.5 / 7, 1e-12);                  // all FP4 at four times the rate
  EXPECT_NEAR(exact.relative(2, 2, 2), 4.0 / 7, 1e-12);                  // and at twice
  EXPECT_NEAR(exact.relative(4, 2, 2), (3.0 / 7 + 8.0 / 7) / 3, 1e-12);  // FP8 attention and backward, FP4 FFN
}

TEST(Published, OptimizersKeep16And6BytesAParameter) {
  EXPECT_EQ(optimizer_layout("adamw").bytes(), 16);
  EXPECT_EQ(optimizer_layout("adamw-fp8").bytes(), 9);
  EXPECT_EQ(optimizer_layout("fp8-lm").bytes(), 6);
}

TEST(Published, BlockFormatsStore4_25And4_5Bits) {
  QuantSpec mxfp4;
  mxfp4.element = ElementFormat::E2M1;
  mxfp4.granularity = Granularity::block(1, 32);
  mxfp4.scale = ScaleRule::Ceil6;
  EXPECT_DOUBLE_EQ(stored_bits(mxfp4, 4096), 4.25);
  QuantSpec nvfp4 = mxfp4;
  nvfp4.granularity = Granularity::block(1, 16);
  nvfp4.scale = ScaleRule::Nvfp4;
  EXPECT_DOUBLE_EQ(stored_bits(nvfp4, 4096), 4.5);
}

TEST(Published, QuartetModelsHaveTheirNonEmbeddingParameters) {
  const std::pair<const char*, std::int64_t> models[] = {{"quartet-30m", 30'482'560},
                                                         {"quartet-50m", 49'556'736},
                                                         {"quartet-100m", 102'777'856},
                                                         {"quartet-200m", 203'188'480}};
  for (const auto& [name, parameters] : models) {
    const LlamaConfig model = load_llama_config(std::string(NIBBLE_SOURCE_DIR "/models/") + name + ".toml");
    EXPECT_EQ(model.non_embedding_parameters(), parameters) << name;
  }
}

}  // namespace
}  // namespace nibble
