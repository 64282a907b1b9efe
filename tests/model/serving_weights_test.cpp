#include "nibble/model/serving_weights.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/numerics/fp8.h"
#include "nibble/quant/quantize.h"
#include "tests/model/served_model.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

using testing_support::served_llama;
using Kind = ServedLinear::Kind;

Recipe recipe(const std::string& name) { return load_recipe(find_recipe(name)); }

ServingPlan plan(const std::string& name, ServingFormat format, ServingRule rule = ServingRule::Auto) {
  return plan_serving(served_llama(), recipe(name), 0, format, rule, serving_block(format));
}

OwnedTensor matrix(std::int64_t rows, std::int64_t cols) {
  OwnedTensor w(DType::F32, {rows, cols});
  const RandomStream random{.seed = 3};
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    w.view().data<float>()[i] =
        (uniform24(random.word(static_cast<std::uint64_t>(i))) - 0.5f) * (i % 37 == 0 ? 0.7f : 0.05f);
  }
  return w;
}

std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(ServingPlan, TakesTheRecipesCodesWhereItsForwardHasTheFormat) {
  for (const char* name : {"nvfp4", "four-over-six", "quartet2", "quartet2-no46"}) {
    EXPECT_GT(plan(name, ServingFormat::Nvfp4).count(Kind::AsTrained), 0) << name;
    EXPECT_EQ(plan(name, ServingFormat::Nvfp4).count(Kind::Standard), 0) << name;
    EXPECT_EQ(plan(name, ServingFormat::Mxfp4).count(Kind::Standard), 16) << name;
  }
}

TEST(ServingPlan, KeepsLayersThatSuchARecipeKeepsInHighPrecision) {
  const ServingPlan nvfp4 = plan("nvfp4", ServingFormat::Nvfp4);  // the last 0.15 of four blocks: one
  EXPECT_EQ(nvfp4.count(Kind::HighPrecision), 4);
  EXPECT_EQ(nvfp4.find("layers.3.mlp.down")->kind, Kind::HighPrecision);
  EXPECT_EQ(nvfp4.find("layers.2.mlp.down")->kind, Kind::AsTrained);
  EXPECT_EQ(nvfp4.find("embedding"), nullptr);
  EXPECT_EQ(plan("nvfp4", ServingFormat::Nvfp4, ServingRule::Standard).count(Kind::Standard), 16);
}

TEST(ServingPlan, TakesTheStandardRuleWhereCodesWouldNotBeTheFormats) {
  // Transformed weights, stretches of rows, rounding towards an average, other granularities, none at all.
  for (const char* name : {"quartet", "tetrajet", "tetrajet2", "wang2025", "luq", "bf16", "mxfp4-backward"}) {
    for (const ServingFormat format : {ServingFormat::Nvfp4, ServingFormat::Mxfp4}) {
      EXPECT_EQ(plan(name, format).count(Kind::Standard), 16) << name;
    }
  }
  EXPECT_NE(refusal([] { plan("quartet", ServingFormat::Mxfp4, ServingRule::AsTrained); }).find("transformed weights"),
            std::string::npos);
  EXPECT_NE(refusal([] { plan("bf16", ServingFormat::Mxfp4, ServingRule::AsTrained); }).find("high precision"),
            std::string::npos);
}

TEST(ServingPlan, RefusesMatricesThatAreNotWholeBlocks) {
  LlamaConfig model = served_llama();
  model.ffn = 200;
  EXPECT_NE(refusal([&] {
              plan_serving(model, recipe("bf16"), 0, ServingFormat::Mxfp4, ServingRule::Auto, 32);
            }).find("'layers.0.mlp.down' has 200 columns; mxfp4 needs a multiple of 32"),
            std::string::npos);
}

TEST(ServedWeight, OfATrainedLayerHasTheCodesThatTheRecipesForwardHas) {
  const OwnedTensor w = matrix(40, 64);  // the last square of 16 x 16 is cut
  for (const char* name : {"nvfp4", "four-over-six", "quartet2"}) {
    const ServingPlan served = plan(name, ServingFormat::Nvfp4);
    const ServedWeight got = quantise_for_serving(w, served.linears[0], ServingFormat::Nvfp4);
    Arena arena;
    const QuantSpec& spec = recipe(name).base()[Operand::FpropW].quant;
    const QTensor want = quantize(w, spec, {}, arena);
    EXPECT_TRUE(std::ranges::equal(std::span(got.codes.view().data<std::uint8_t>(), 40 * 32),
                                   std::span(want.codes.data<std::uint8_t>(), 40 * 32)));
    for (std::int64_t r = 0; r < 40; ++r) {
      for (std::int64_t c = 0; c < 64; c += 16) {
        const std::uint8_t scale = got.scales.view().data<std::uint8_t>()[r * 4 + c / 16];
        ASSERT_EQ(e4m3_decode(scale) * got.tensor_scale, want.scale_at(r, c)) << name << " " << r << " " << c;
      }
    }
  }
}

TEST(ServedWeight, OfTheStandardNvfp4RuleHasAPowerOfTwoForItsTensorScale) {
  for (const float largest : {1e-30f, 3e-5f, 0.7f, 1.0f, 5.9f, 448.0f * 6.0f, 1e30f}) {
    const OwnedTensor w = matrix(3, 32);
    w.view().data<float>()[5] = largest;
    for (std::int64_t i = 0; i < 96; ++i) w.view().data<float>()[i] *= i == 5 ? 1.0f : largest;
    const ServedWeight served = quantise_for_serving(w, {.name = "w", .spec = {}}, ServingFormat::Nvfp4);
    int exponent = 0;
    EXPECT_EQ(std::frexp(served.tensor_scale, &exponent), 0.5f) << largest;
    // The block of the largest value uses the upper binade of its scale's format, or the one below after rounding.
    const float scale = e4m3_decode(served.scales.view().data<std::uint8_t>()[0]);
    if (largest > 1e-25f) {
      EXPECT_GE(scale, 208.0f) << largest;
    }
    EXPECT_LE(scale, 448.0f) << largest;
    EXPECT_NEAR(scale * served.tensor_scale * 6 / largest, 1, 0.07) << largest;
  }
}

TEST(ServedWeight, OfAMatrixOfZerosIsZeros) {
  for (const ServingFormat format : {ServingFormat::Nvfp4, ServingFormat::Mxfp4}) {
    const OwnedTensor w(DType::F32, {2, 64});
    const ServedWeight served = quantise_for_serving(w, {.name = "w", .spec = {}}, format);
    for (std::int64_t i = 0; i < 64; ++i) EXPECT_EQ(served.codes.view().data<std::uint8_t>()[i] & 0x77, 0);
    EXPECT_EQ(served.tensor_scale, 1.0f);
  }
}

TEST(ServedWeight, OfTheStandardMxfp4RuleIsWhatTheOcpRuleMakes) {
  const OwnedTensor w = matrix(8, 64);
  const ServedWeight served = quantise_for_serving(w, {.name = "w", .spec = {}}, ServingFormat::Mxfp4);
  for (std::int64_t r = 0; r < 8; ++r) {
    for (std::int64_t b = 0; b < 2; ++b) {
      float amax = 0;
      for (std::int64_t c = 0; c < 32; ++c)
        amax = std::max(amax, std::abs(w.view().data<float>()[r * 64 + b * 32 + c]));
      EXPECT_EQ(served.scales.view().data<std::uint8_t>()[r * 2 + b], std::ilogb(amax) - 2 + 127);
    }
  }
}

}  // namespace
}  // namespace nibble
