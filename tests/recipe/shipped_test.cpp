// The shipped recipes say what their papers say: the six operands of each, stages, exemptions and extra state.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "nibble/recipe/describe.h"
#include "nibble/recipe/recipe.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
const fs::path kRoot = NIBBLE_SOURCE_DIR;

std::vector<fs::path> files_under(const fs::path& folder, const std::set<std::string>& extensions) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (extensions.count(entry.path().extension().string()) != 0) files.push_back(entry.path());
  }
  return files;
}

Recipe shipped(const std::string& name) {
  for (const fs::path& file : files_under(kRoot / "recipes", {".toml"})) {
    if (file.stem() == name) return load_recipe(file);
  }
  ADD_FAILURE() << "no recipe " << name;
  return unquantised_recipe(ElementFormat::BF16);
}

TEST(ShippedRecipes, AreValidNamedLikeTheirFilesAndSayWhereTheyComeFrom) {
  std::set<std::string> names;
  for (const fs::path& file : files_under(kRoot / "recipes", {".toml"})) {
    SCOPED_TRACE(file.string());
    const Recipe r = load_recipe(file);
    EXPECT_EQ(r.name, file.stem().string());
    EXPECT_TRUE(names.insert(r.name).second) << "two recipes of one name";
    EXPECT_NE(r.title, r.name);
    EXPECT_FALSE(r.source.empty());
  }
  EXPECT_GE(names.size(), 25U);
}

TEST(ShippedRecipes, ParseToTheSameFromTheTextThatARunKeeps) {
  for (const fs::path& file : files_under(kRoot / "recipes", {".toml"})) {
    SCOPED_TRACE(file.string());
    const Recipe r = load_recipe(file);
    const Recipe again = parse_recipe(r.text, "checkpoint");
    EXPECT_EQ(again.text, r.text);
    EXPECT_EQ(again.name, r.name);
    EXPECT_EQ(again.title, r.title);
    EXPECT_EQ(again.source, r.source);
    EXPECT_EQ(again.unbiased_gradient, r.unbiased_gradient);
    ASSERT_EQ(again.stages.size(), r.stages.size());
    for (std::size_t s = 0; s < r.stages.size(); ++s) {
      ASSERT_EQ(again.stages[s].linear.size(), r.stages[s].linear.size());
      for (std::size_t m = 0; m < r.stages[s].linear.size(); ++m) {
        EXPECT_EQ(again.stages[s].linear[m].operands, r.stages[s].linear[m].operands);
      }
    }
    EXPECT_TRUE(differences(r, again).empty());
  }
}

struct Expected {
  const char* recipe;
  std::array<const char*, 6> operands;  // in the order of kAllOperands
};

constexpr const char* kAgain = "as quantised for fprop";
constexpr const char* kEdenDy =
    "E2M1 per 1x16 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden, Hadamard 128 signs call";

// Columns FA FW DG DW GG GX of the literature: format, block, scale, rounding, transform, source.
const Expected kTable[] = {
    {"bf16", {"BF16", "BF16", "BF16", kAgain, "BF16", kAgain}},
    {"fp8",
     {"E4M3 per row, absmax, nearest-even", "E4M3 per row, absmax, nearest-even", "E5M2 per row, absmax, nearest-even",
      "E4M3 per column, absmax, nearest-even", "E5M2 per column, absmax, nearest-even",
      "E4M3 per column, absmax, nearest-even"}},
    {"fp8-tensor",
     {"E4M3 per tensor, absmax, nearest-even", "E4M3 per tensor, absmax, nearest-even",
      "E5M2 per tensor, absmax, nearest-even", kAgain, "E5M2 per tensor, absmax, nearest-even", kAgain}},
    {"fp8-tensor-e4m3",
     {"E4M3 per tensor, absmax, nearest-even", "E4M3 per tensor, absmax, nearest-even",
      "E4M3 per tensor, absmax, nearest-even", kAgain, "E4M3 per tensor, absmax, nearest-even", kAgain}},
    {"fp4-direct",
     {"E2M1 per row, absmax, nearest-up", "E2M1 per row, absmax, nearest-up",
      "E4M3 per row, absmax, nearest-even, partner's scales folded in", kAgain,
      "E4M3 per column, absmax, nearest-even, partner's scales folded in", kAgain}},
    {"wang2025",
     {"E2M1 per row, absmax, nearest-up, clamp 0.99 + sparse residual", "E2M1 per row, absmax, nearest-up",
      "E4M3 per row, absmax, nearest-even, partner's scales folded in", kAgain,
      "E4M3 per column, absmax, nearest-even, partner's scales folded in", kAgain}},
    {"wang2025-released",
     {"E2M1 per row, absmax-pow2, nearest-up, BF16 arithmetic, clamp 0.99, carried in e4m3",
      "E2M1 per column, absmax-pow2, nearest-up, BF16 arithmetic, carried in e4m3",
      "E5M2 per tensor, absmax-pow2, nearest-even", kAgain, "E5M2 per tensor, absmax-pow2, nearest-even", kAgain}},
    {"zhou2025",
     {"E2M1 per 1x128 block, absmax, nearest-even", "E2M1 per 1x128 block, absmax, nearest-even",
      "E5M2 per 1x128 block, absmax, nearest-even", "E4M3 per 128x1 block, absmax, nearest-even",
      "E5M2 per 128x1 block, absmax, nearest-even", "E4M3 per 128x1 block, absmax, nearest-even"}},
    {"quartet",
     {"E2M1 per 1x32 block, quest-floor, nearest-zero, Hadamard 32, trust mask",
      "E2M1 per 1x32 block, quest-floor, nearest-zero, Hadamard 32, trust mask",
      "E2M1 per 1x32 block, range-match34, stochastic, Hadamard 32 signs call",
      "E2M1 per 32x1 block, range-match34, stochastic, Hadamard 32 signs call, fprop's requantised",
      "E2M1 per 32x1 block, range-match34, stochastic, Hadamard 32 signs call",
      "E2M1 per 32x1 block, range-match34, stochastic, Hadamard 32 signs call, fprop's requantised"}},
    {"quartet-rtn",
     {"E2M1 per 1x32 block, quest-floor, nearest-zero, Hadamard 32, trust mask",
      "E2M1 per 1x32 block, quest-floor, nearest-zero, Hadamard 32, trust mask",
      "E2M1 per 1x32 block, range-match34, nearest-zero, Hadamard 32 signs call",
      "E2M1 per 32x1 block, range-match34, nearest-zero, Hadamard 32 signs call, fprop's requantised",
      "E2M1 per 32x1 block, range-match34, nearest-zero, Hadamard 32 signs call",
      "E2M1 per 32x1 block, range-match34, nearest-zero, Hadamard 32 signs call, fprop's requantised"}},
    {"nvfp4",
     {"E2M1 per 1x16 block, nvfp4, nearest-even", "E2M1 per 16x16 block, nvfp4, nearest-even",
      "E2M1 per 1x16 block, nvfp4, stochastic-8bit", kAgain,
      "E2M1 per 16x1 block, nvfp4, stochastic-8bit, Hadamard 16 signs vector",
      "E2M1 per 16x1 block, nvfp4, nearest-even, Hadamard 16 signs vector"}},
    {"nvfp4-late-switch",
     {"E2M1 per 1x16 block, nvfp4, nearest-even", "E2M1 per 16x16 block, nvfp4, nearest-even",
      "E2M1 per 1x16 block, nvfp4, stochastic-8bit", kAgain,
      "E2M1 per 16x1 block, nvfp4, stochastic-8bit, Hadamard 16 signs vector",
      "E2M1 per 16x1 block, nvfp4, nearest-even, Hadamard 16 signs vector"}},
    {"four-over-six",
     {"E2M1 per 1x16 block, nvfp4, scales to 256, four-over-six by mse, nearest-even",
      "E2M1 per 16x16 block, nvfp4, scales to 256, four-over-six by mse, nearest-even",
      "E2M1 per 1x16 block, nvfp4, stochastic-8bit", kAgain,
      "E2M1 per 16x1 block, nvfp4, stochastic-8bit, Hadamard 16 signs vector",
      "E2M1 per 16x1 block, nvfp4, nearest-even, Hadamard 16 signs vector"}},
    {"quartet2",
     {"E2M1 per 1x16 block, nvfp4, scales to 256, zero becomes 1, four-over-six by mse, nearest-even",
      "E2M1 per 1x16 block, nvfp4, scales to 256, zero becomes 1, four-over-six by mse, nearest-even", kEdenDy,
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden, Hadamard 128 signs call, "
      "fprop's requantised",
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden, Hadamard 128 signs call",
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden, Hadamard 128 signs call, "
      "fprop's requantised"}},
    {"quartet2-h",
     {"E2M1 per 1x16 block, nvfp4, scales to 256, zero becomes 1, four-over-six by mse, nearest-even",
      "E2M1 per 1x16 block, nvfp4, scales to 256, zero becomes 1, four-over-six by mse, nearest-even",
      "E2M1 per 1x16 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden over 128, Hadamard 128 "
      "signs call",
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden over 128, Hadamard 128 "
      "signs call, fprop's requantised",
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden over 128, Hadamard 128 "
      "signs call",
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden over 128, Hadamard 128 "
      "signs call, fprop's requantised"}},
    {"quartet2-no46",
     {"E2M1 per 1x16 block, nvfp4, zero becomes 1, nearest-even",
      "E2M1 per 1x16 block, nvfp4, zero becomes 1, nearest-even", kEdenDy,
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden, Hadamard 128 signs call, "
      "fprop's requantised",
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden, Hadamard 128 signs call",
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden, Hadamard 128 signs call, "
      "fprop's requantised"}},
    {"tetrajet",
     {"E2M1 per 1x32 block, ceil6, nearest-even", "E2M1 per 1x32 block, ceil6, reference",
      "E2M1 per 1x32 block, ceil6, stochastic", "E2M1 per 32x1 block, ceil6, stochastic, fprop's requantised",
      "E2M1 per 32x1 block, ceil6, stochastic", "E2M1 per 32x1 block, ceil6, stochastic, fprop's requantised"}},
    {"tetrajet2",
     {"E2M1 per 1x16 block, nvfp4, zero becomes 0.00195, F32 scale per 128, nearest-even",
      "E2M1 per 1x16 block, nvfp4, zero becomes 0.00195, F32 scale per 128, nearest-even",
      "E2M1 per 1x16 block, nvfp4, zero becomes 0.00195, F32 scale per 128, stochastic, Hadamard 16 signs call",
      "E2M1 per 16x1 block, nvfp4, zero becomes 0.00195, F32 scale per 128, stochastic, Hadamard 16 signs call, "
      "fprop's requantised",
      "E2M1 per 16x1 block, nvfp4, zero becomes 0.00195, F32 scale per 128, stochastic, Hadamard 16 signs call",
      "E2M1 per 16x1 block, nvfp4, zero becomes 0.00195, F32 scale per 128, stochastic, Hadamard 16 signs call, "
      "fprop's requantised"}},
    {"fp4-all-the-way",
     {"E2M1 per 1x16 block, nvfp4, nearest-even", "E2M1 per 1x16 block, nvfp4, nearest-even",
      "E2M1 per 1x16 block, nvfp4, maximum to 5.647, stochastic", "E2M1 per 16x1 block, nvfp4, nearest-even",
      "E2M1 per 16x1 block, nvfp4, maximum to 5.647, stochastic",
      "E2M1 per 16x1 block, nvfp4, maximum to 5.647, stochastic"}},
    {"mxfp4-backward",
     {"BF16", "BF16", "E2M1 per 1x32 block, range-match34, stochastic, Hadamard 64 signs call",
      "E2M1 per 32x1 block, range-match34, stochastic, Hadamard 64 signs call",
      "E2M1 per 32x1 block, range-match34, stochastic, Hadamard 64 signs call",
      "E2M1 per 32x1 block, range-match34, stochastic, Hadamard 64 signs call"}},
    {"luq",
     {"INT4 per tensor, sawb, nearest-even", "INT4 per tensor, sawb, nearest-even",
      "E3M0 per tensor, absmax, 7 powers of two, stochastic", kAgain,
      "E3M0 per tensor, absmax, 7 powers of two, stochastic, mean of 2 samples", kAgain}},
    {"union",
     {"E2M1 per row, absmax, nearest-up, clamp 0.99 + sparse residual", "E2M1 per row, absmax, nearest-up", kEdenDy,
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden, Hadamard 128 signs call, "
      "fprop's requantised",
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden, Hadamard 128 signs call",
      "E2M1 per 16x1 block, nvfp4, maximum to 6.072, scales to 255.99, zero becomes 1, eden, Hadamard 128 signs call, "
      "fprop's requantised"}},
};

TEST(ShippedRecipes, HaveTheOperandsOfTheirPapers) {
  for (const Expected& e : kTable) {
    SCOPED_TRACE(e.recipe);
    const Recipe r = shipped(e.recipe);
    for (const Operand o : kAllOperands) {
      EXPECT_EQ(describe(r.base()[o]), e.operands[static_cast<std::size_t>(o)]) << operand_name(o);
    }
  }
}

TEST(ShippedRecipes, OfTheTopFolderAllStandInTheTableOrExtendOneThatDoes) {
  std::set<std::string> known;
  for (const Expected& e : kTable) known.insert(e.recipe);
  known.insert("tetrajet2-base");
  for (const auto& entry : fs::directory_iterator(kRoot / "recipes")) {
    if (entry.path().extension() == ".toml") {
      EXPECT_EQ(known.count(entry.path().stem().string()), 1U) << entry.path();
    }
  }
}

TEST(ShippedRecipes, TheReleaseOfWangClampsPerTokenAndKeepsScalesAsPowersOfTwo) {
  const LinearRecipe r = shipped("wang2025-released").base();
  const QuantSpec& x = r[Operand::FpropX].quant;
  EXPECT_EQ(x.scale, ScaleRule::AbsmaxPow2);
  EXPECT_EQ(x.clamp, (Clamp{0.99, true, ResidualMode::None}));
  EXPECT_EQ(r[Operand::FpropW].quant.granularity, Granularity::per_column());
  EXPECT_EQ(r.weight_gradient.estimator, WeightGradient::Estimator::Dge);
}

TEST(ShippedRecipes, DirectFp4DiffersFromWang2025InDgeAndOccAlone) {
  const std::vector<Difference> all = differences(shipped("fp4-direct"), shipped("wang2025"));
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].what, "fprop.x besides");
  EXPECT_EQ(all[1].what, "weight gradient");
}

TEST(ShippedRecipes, TheFusedWang2025DiffersInItsResidualAlone) {
  const Recipe fused = shipped("wang2025-fused");
  EXPECT_EQ(describe(fused.base()[Operand::FpropX]), "E2M1 per row, absmax, nearest-up, clamp 0.99 + fused residual");
  const std::vector<Difference> all = differences(shipped("wang2025"), fused);
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all[0].what, "fprop.x besides");
}

TEST(ShippedRecipes, ZhousAttentionIsFp8AndItsFinishBf16) {
  const Recipe r = shipped("zhou2025");
  const auto element = [&](const char* layer, Operand o, std::size_t stage) {
    return r.resolve(layer, 3, 8, stage)[o].quant.element;
  };
  for (const char* layer : {"layers.3.attention.qkv", "layers.3.attention.output"}) {
    EXPECT_EQ(element(layer, Operand::FpropX, 0), ElementFormat::E4M3) << layer;
    EXPECT_EQ(element(layer, Operand::FpropW, 0), ElementFormat::E4M3) << layer;
    EXPECT_EQ(element(layer, Operand::DgradDy, 0), ElementFormat::E5M2) << layer;
  }
  for (const char* layer : {"layers.3.mlp.gate_up", "layers.3.mlp.down"}) {
    EXPECT_EQ(element(layer, Operand::FpropX, 0), ElementFormat::E2M1) << layer;
  }
  ASSERT_EQ(r.stages.size(), 2U);
  EXPECT_EQ(r.stages[1].from, 0.92);
  for (const Operand o : kAllOperands) {
    EXPECT_EQ(element("layers.3.attention.qkv", o, 1), ElementFormat::BF16);
    EXPECT_EQ(element("layers.3.mlp.down", o, 1), ElementFormat::BF16);
  }
}

TEST(ShippedRecipes, Nvfp4ExemptsTheLastBlocksAndSwitchesTheForwardAlone) {
  EXPECT_EQ(shipped("nvfp4").exempt_last_share, 0.15);
  const Recipe r = shipped("nvfp4-late-switch");
  EXPECT_EQ(r.exempt_last_share, 0.15);
  ASSERT_EQ(r.stages.size(), 2U);
  EXPECT_EQ(r.stages[1].from, 0.82);
  const LinearRecipe& late = r.stages[1].linear.back();
  EXPECT_EQ(describe(late[Operand::FpropX]), "BF16");
  EXPECT_EQ(describe(late[Operand::FpropW]), "BF16");
  EXPECT_EQ(describe(late[Operand::DgradW]), "E2M1 per 16x1 block, nvfp4, nearest-even");
  for (const Operand o : {Operand::DgradDy, Operand::WgradDy, Operand::WgradX}) EXPECT_EQ(late[o], r.base()[o]);
}

TEST(ShippedRecipes, TetraJetsKeepTheirExtraState) {
  const LinearRecipe first = shipped("tetrajet").base();
  EXPECT_EQ(first.weight_average.decay, 0.9972);
  EXPECT_EQ(first.weight_average.start_step, 10);
  const LinearRecipe second = shipped("tetrajet2").base();
  EXPECT_EQ(second.outlier_channels.share, 0.1);
  EXPECT_EQ(second.outlier_channels.multiple, 128);
  EXPECT_EQ(second.outlier_channels.first_step, 501);
  EXPECT_EQ(second.outlier_channels.last_step, 550);
  EXPECT_EQ(second.outlier_channels.quant.element, ElementFormat::E4M3);
  EXPECT_EQ(second.oscillation_reset.threshold, 8);
  EXPECT_EQ(second.oscillation_reset.period, 200);
  EXPECT_EQ(second.oscillation_reset.window, 50);
  const LinearRecipe base = shipped("tetrajet2-base").base();
  EXPECT_FALSE(base.outlier_channels.enabled());
  EXPECT_FALSE(base.oscillation_reset.enabled());
  EXPECT_EQ(base.operands, second.operands);
}

TEST(ShippedRecipes, Fp4AllTheWayEndsInABf16BackwardWithARewarmedLearningRate) {
  const Recipe r = shipped("fp4-all-the-way");
  ASSERT_EQ(r.stages.size(), 2U);
  EXPECT_EQ(r.stages[1].monitor, Stage::Monitor::GradientToNoise);
  EXPECT_EQ(r.stages[1].below, 1.7320508);
  EXPECT_EQ(r.stages[1].rewarm_steps, 40);
  const LinearRecipe& tail = r.stages[1].linear.back();
  for (const Operand o : kAllOperands) {
    const bool forward = o == Operand::FpropX || o == Operand::FpropW;
    EXPECT_EQ(tail[o], forward ? r.base()[o] : OperandSpec{}) << operand_name(o);
  }
}

TEST(ShippedRecipes, UnbiasedOnesSayIt) {
  for (const char* name : {"quartet", "quartet2", "quartet2-h", "quartet2-no46", "tetrajet", "mxfp4-backward", "luq"}) {
    EXPECT_TRUE(shipped(name).unbiased_gradient) << name;
  }
  for (const char* name : {"quartet-rtn", "nvfp4", "tetrajet2", "fp4-all-the-way", "wang2025", "union"}) {
    EXPECT_FALSE(shipped(name).unbiased_gradient) << name;
  }
}

TEST(ShippedRecipes, TheUnionIsWangsForwardQuartetsBackwardAndZhousFinish) {
  const Recipe r = shipped("union");
  const Recipe wang = shipped("wang2025");
  const Recipe quartet = shipped("quartet2");
  for (const Operand o : kAllOperands) {
    const bool forward = o == Operand::FpropX || o == Operand::FpropW;
    EXPECT_EQ(r.base()[o], (forward ? wang : quartet).base()[o]) << operand_name(o);
  }
  EXPECT_EQ(r.base().weight_gradient.estimator, WeightGradient::Estimator::Dge);
  ASSERT_EQ(r.stages.size(), 2U);
  EXPECT_EQ(r.stages[1].from, 0.92);
  EXPECT_EQ(r.stages[1].linear.back().operands, LinearRecipe{}.operands);
}

TEST(ShippedRecipes, AblationsOfWang2025ChangeWhatTheirNamesSay) {
  const auto with = [](const char* name) { return shipped(name).base(); };
  EXPECT_EQ(with("wang2025-w4a16")[Operand::FpropX].quant.element, ElementFormat::BF16);
  EXPECT_EQ(with("wang2025-w16a4")[Operand::FpropW].quant.element, ElementFormat::BF16);
  EXPECT_EQ(with("wang2025-w4a8")[Operand::FpropX].quant.element, ElementFormat::E4M3);
  EXPECT_EQ(with("wang2025-w8a4")[Operand::FpropW].quant.element, ElementFormat::E4M3);
  EXPECT_FALSE(with("wang2025-w8a4-direct")[Operand::FpropX].quant.clamp.enabled());
  EXPECT_EQ(with("wang2025-dge-k3").weight_gradient.k, 3);
  EXPECT_EQ(with("wang2025-dge-k10").weight_gradient.k, 10);
  EXPECT_EQ(with("wang2025-occ-999")[Operand::FpropX].quant.clamp.alpha, 0.999);
  EXPECT_EQ(with("wang2025-occ-97")[Operand::FpropX].quant.clamp.alpha, 0.97);
  EXPECT_EQ(with("wang2025-fused")[Operand::FpropX].quant.clamp, (Clamp{0.99, true, ResidualMode::Fused}));
  EXPECT_EQ(with("wang2025-tensor")[Operand::FpropX].quant.granularity, Granularity::per_tensor());
  EXPECT_EQ(with("wang2025-tensor")[Operand::FpropW].quant.granularity, Granularity::per_tensor());
}

/// The source without comments, whose words bind nobody.
std::string code_of(const fs::path& file) {
  std::ifstream in(file);
  std::stringstream text;
  text << in.rdbuf();
  return std::regex_replace(text.str(), std::regex("//[^\n]*"), "");
}

TEST(TheCode, KnowsNoRecipeByName) {
  // Formats, which the code has to name and which recipes are named after.
  const std::set<std::string> formats = {"bf16", "fp8", "nvfp4"};
  // What bears the name of a paper without being its recipe.
  const std::set<std::pair<std::string, std::string>> others = {{"cli/cost.cpp", "quartet"}};  // the scaling law
  std::size_t read = 0;
  for (const fs::path& file : files_under(kRoot / "src", {".cpp", ".h", ".cu", ".cuh"})) {
    const std::string code = code_of(file);
    const std::string place = file.lexically_relative(kRoot / "src" / "nibble").string();
    read += code.size();
    for (const fs::path& recipe : files_under(kRoot / "recipes", {".toml"})) {
      const std::string name = recipe.stem().string();
      if (formats.count(name) != 0 || others.count({place, name}) != 0) continue;
      for (const std::string& literal : {fmt::format("\"{}\"", name), fmt::format("\"{}.toml\"", name)}) {
        EXPECT_EQ(code.find(literal), std::string::npos) << literal << " stands in " << place;
      }
    }
  }
  ASSERT_GT(read, 100000U);
}

}  // namespace
}  // namespace nibble
