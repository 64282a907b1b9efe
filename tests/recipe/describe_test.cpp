#include "nibble/recipe/describe.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

QuantSpec fp4(Granularity granularity, ScaleRule scale) {
  QuantSpec q;
  q.element = ElementFormat::E2M1;
  q.granularity = granularity;
  q.scale = scale;
  return q;
}

TEST(StoredBits, OfPublishedFormats) {
  EXPECT_EQ(stored_bits({}, 4096), 16);
  EXPECT_EQ(stored_bits(fp4(Granularity::block(1, 32), ScaleRule::Ceil6), 4096), 4.25);
  EXPECT_EQ(stored_bits(fp4(Granularity::block(1, 16), ScaleRule::Nvfp4), 4096), 4.5);
  EXPECT_EQ(stored_bits(fp4(Granularity::block(16, 16), ScaleRule::Nvfp4), 4096), 4 + 8.0 / 256);
  QuantSpec double_block = fp4(Granularity::block(1, 16), ScaleRule::Nvfp4);
  double_block.nvfp4.outer = 128;
  EXPECT_EQ(stored_bits(double_block, 4096), 4.75);
}

TEST(StoredBits, OfARowsScaleDependOnItsLength) {
  const QuantSpec row = fp4(Granularity::per_row(), ScaleRule::Absmax);
  EXPECT_EQ(stored_bits(row, 4096), 4 + 32.0 / 4096);
  EXPECT_EQ(stored_bits(row, 64), 4.5);
  EXPECT_EQ(stored_bits(fp4(Granularity::per_tensor(), ScaleRule::Absmax), 64), 4);
  EXPECT_EQ(stored_bits(fp4(Granularity::block(1, 128), ScaleRule::Absmax), 64), 4.5) << "a row ends its last block";
}

TEST(StoredBits, CountMasksCarriersAndResidualsInTheElements) {
  QuantSpec q = fp4(Granularity::block(1, 32), ScaleRule::QuestFloor);
  q.trust_mask = true;
  EXPECT_EQ(stored_bits(q, 4096), 5.25);
  QuantSpec carried = fp4(Granularity::per_row(), ScaleRule::AbsmaxPow2);
  carried.carrier = ElementFormat::E4M3;
  EXPECT_EQ(stored_bits(carried, 4096), 8);
  QuantSpec dense = fp4(Granularity::per_row(), ScaleRule::Absmax);
  dense.clamp = {0.99, true, ResidualMode::Dense};
  EXPECT_EQ(stored_bits(dense, 4096), 16);
  QuantSpec fused = dense;
  fused.clamp.residual = ResidualMode::Fused;
  EXPECT_EQ(stored_bits(fused, 4096), 8 + 32.0 / 4096);
  fused.clamp.residual = ResidualMode::Sparse;
  EXPECT_EQ(stored_bits(fused, 4096), 4 + 32.0 / 4096);
}

TEST(Describe, NamesEveryFieldThatIsNotAsUsual) {
  OperandSpec spec;
  spec.quant = fp4(Granularity::block(1, 16), ScaleRule::Nvfp4);
  spec.quant.transposed = true;
  spec.quant.nvfp4 = {5.5, 256, 1, 128, Selection::Mae};
  spec.quant.rounding = Rounding::Stochastic;
  spec.quant.hadamard = {64, Hadamard::Signs::Step, true};
  spec.quant.clamp = {0.97, false, ResidualMode::Dense};
  spec.quant.trust_mask = true;
  spec.samples = 3;
  spec.source = OperandSource::Requantise;
  EXPECT_EQ(describe(spec),
            "E2M1 per 16x1 block, nvfp4, maximum to 5.5, scales to 256, zero becomes 1, F32 scale per 128, "
            "four-over-six by mae, stochastic, Hadamard 64 signs step last, fprop's requantised, clamp 0.97 of the "
            "tensor + dense residual, trust mask, mean of 3 samples");
  spec.source = OperandSource::Fprop;
  EXPECT_EQ(describe(spec), "as quantised for fprop");
  EXPECT_EQ(describe(OperandSpec{}), "BF16");
}

TEST(Describe, SpeaksOfTheMatrixAsItIsStored) {
  OperandSpec spec;
  spec.quant = fp4(Granularity::per_row(), ScaleRule::Absmax);
  EXPECT_EQ(describe(spec), "E2M1 per row, absmax, nearest-even");
  spec.quant.transposed = true;
  EXPECT_EQ(describe(spec), "E2M1 per column, absmax, nearest-even");
}

TEST(Differences, NameWhatOneRecipeSaysAndTheOtherDoesNot) {
  const Recipe a = parse_recipe("name = \"a\"\n[fprop.x]\nelement = \"e2m1\"\n", "a");
  const Recipe b = parse_recipe(
      "name = \"b\"\n[fprop.x]\nelement = \"e2m1\"\nrounding = \"nearest-up\"\n[layers]\nexempt_last_blocks = 2\n"
      "[[stages]]\nfrom = 0.5\nforward = \"bf16\"\n",
      "b");
  const std::vector<Difference> all = differences(a, b);
  ASSERT_EQ(all.size(), 4U);
  EXPECT_EQ(all[0].what, "fprop.x rounding");
  EXPECT_EQ(all[0].a, "nearest-even");
  EXPECT_EQ(all[0].b, "nearest-up");
  EXPECT_EQ(all[1].what, "exempt last blocks");
  EXPECT_EQ(all[1].a, "-");
  EXPECT_EQ(all[1].b, "2");
  EXPECT_EQ(all[2].what, "stage 1");
  EXPECT_EQ(all[2].b, "from 50 % of the steps");
  EXPECT_EQ(all[3].what, "stage 1 fprop.x");
  EXPECT_EQ(all[3].b, "BF16");
  EXPECT_TRUE(differences(b, b).empty());
}

TEST(ProductFormats, FollowAnOperandThatServesAgain) {
  const Recipe r = parse_recipe(
      "name = \"r\"\n[fprop.w]\nelement = \"e2m1\"\ngranularity = 32\nscale = \"ceil6\"\n[dgrad.dy]\nelement = "
      "\"e5m2\"\n[dgrad.w]\nsource = \"fprop\"\n",
      "r");
  EXPECT_EQ(product_formats(r.base(), Operand::FpropX), "BF16 x MXFP4");
  EXPECT_EQ(product_formats(r.base(), Operand::DgradDy), "E5M2 x MXFP4");
  EXPECT_EQ(product_formats(r.base(), Operand::WgradDy), "BF16 x BF16");
}

}  // namespace
}  // namespace nibble
