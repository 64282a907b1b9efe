// What the backward computes again gives the bits that it would have kept: by every shipped recipe, in every stage.
#include "tests/model/recompute_trace.h"

namespace nibble {
namespace {

using testing_support::shipped_recipes;

class RecomputeOf : public testing_support::ShippedRecipe {};
TEST_P(RecomputeOf, GivesTheBitsOfWhatIsKept) { testing_support::expect_recomputed_bits(recipe_, Device::Cpu); }
INSTANTIATE_TEST_SUITE_P(Recipes, RecomputeOf, testing::ValuesIn(shipped_recipes()), testing_support::recipe_test_name);

TEST(Recompute, GivesTheBitsOfWhatIsKeptWithBiasesAndNormsOfHeads) {
  testing_support::expect_recomputed_bits(load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/nvfp4.toml"),
                                          Device::Cpu, testing_support::small_relative(2));
}

TEST(Recompute, TakesLessMemoryLevelByLevel) {
  for (const Recipe& recipe : {unquantised_recipe(ElementFormat::BF16),
                               load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/quartet.toml")}) {
    LlamaConfig c = testing_support::small_llama(2);
    c.layers = 8;
    c.seq = 1024;
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(c.seq), 1);
    const Tensor batch = Tensor::of(tokens.data(), {1, c.seq});
    std::vector<std::size_t> peaks;
    for (const Recompute level : {Recompute::None, Recompute::BlockParts, Recompute::Block}) {
      Llama model(c, recipe, 3);
      model.set_recompute(level);
      model.prepare(1, false);
      model.forward_backward({batch, batch}, 1.0, 1, 0, true, false);
      peaks.push_back(model.activation_peak_bytes());
    }
    EXPECT_LE(peaks[1], peaks[0]) << recipe.name;
    EXPECT_LT(2 * peaks[2], peaks[1]) << recipe.name;
  }
}

}  // namespace
}  // namespace nibble
