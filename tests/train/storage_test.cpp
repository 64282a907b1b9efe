// Weights that are stored in half and gradients in BF16: the bits of F32 storage, or their roundings.
#include "nibble/model/hugging_face.h"
#include "nibble/ops/reduce.h"
#include "tests/train/small_run.h"
#include "tests/train/storage_trace.h"

namespace nibble {
namespace {

using testing_support::floats;
using testing_support::kSequences;

class StorageOf : public testing_support::ShippedRecipe {};
TEST_P(StorageOf, WeightsInHalfAreTheWeightsInF32) {
  testing_support::expect_bits_of_f32_storage(recipe_, Device::Cpu);
}
INSTANTIATE_TEST_SUITE_P(Recipes, StorageOf, testing::ValuesIn(testing_support::shipped_recipes()),
                         testing_support::recipe_test_name);

TEST(Storage, GradientsInBf16AreThoseInF32RoundedAfterEachPass) {
  const LlamaConfig c = testing_support::small_llama(1);
  for (const char* name : {"bf16", "wang2025", "quartet2"}) {
    const Recipe recipe = recipe_for_test(name);
    Llama wide(c, recipe, 5);
    Llama narrow(c, recipe, 5, DType::BF16, Device::Cpu, {.gradients = DType::BF16});
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(kSequences * c.seq));
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i * 7 % 67);
    const Tensor batch = Tensor::of(tokens.data(), {kSequences, c.seq});
    std::vector<std::vector<float>> sums;  // of BF16 gradients, as they ought to be
    for (std::int64_t pass = 0; pass < 2; ++pass) {
      for (Llama* model : {&wide, &narrow}) {
        if (pass == 0) model->prepare(1, false);
        // Each pass of the wide model alone: its gradient, without what came before.
        model->forward_backward({batch, batch}, 1e-2, 1, pass * 128, pass == 0 || model == &wide, false, 256);
      }
      std::size_t at = 0;
      for (std::size_t i = 0; i < wide.parameters().size(); ++i) {
        const Tensor& g = wide.parameters()[i].grad;
        const Tensor& rounded = narrow.parameters()[i].grad;
        if (rounded.dtype() == DType::F32) continue;
        if (pass == 0) sums.emplace_back(static_cast<std::size_t>(g.numel()), 0.0f);
        std::vector<float>& sum = sums[at++];
        float largest = 0;
        for (std::int64_t e = 0; e < g.numel(); ++e) largest = std::max(largest, std::abs(g.data<float>()[e]));
        for (std::int64_t e = 0; e < g.numel(); ++e) {
          float& s = sum[static_cast<std::size_t>(e)];
          s = bf16_decode(bf16_encode(s + g.data<float>()[e]));
          // The first is the rounded gradient itself; a later product may add its terms to a sum in another order.
          const float tolerance = pass == 0 ? 0.0f : 1e-2f * std::abs(s) + 1e-5f * largest;
          EXPECT_NEAR(bf16_decode(rounded.data<bf16>()[e]), s, tolerance) << name << " " << i << " " << e;
        }
      }
      EXPECT_GT(at, 0u);
    }
    double squares = 0;
    for (const Parameter& p : narrow.parameters()) {
      const OwnedTensor g(DType::F32, p.grad.shape());
      convert(p.grad, g);
      squares += sum_of_squares(g);
    }
    EXPECT_NEAR(narrow.squares_of_gradients() / squares, 1, 1e-12);
  }
}

TEST(Storage, ARunWithFp8StatesAndBf16GradientsResumesAsItWas) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 8);
  config.optimizer = OptimizerKind::AdamWFp8;
  config.gradients = DType::BF16;
  const Recipe recipe = recipe_for_test("wang2025");
  ASSERT_TRUE(train(config, recipe, folder.path() / "whole", Resume::No, kNeverStop, {}));
  EXPECT_FALSE(train_until(5, config, recipe, folder.path() / "parts"));
  EXPECT_TRUE(train_until(8, config, recipe, folder.path() / "parts"));
  expect_same_run(folder.path() / "whole", folder.path() / "parts");
}

TEST(Storage, ACheckpointOfHalfWeightsLoadsIntoF32AndBack) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 2);
  config.optimizer = OptimizerKind::AdamWFp8;
  const Recipe recipe = recipe_for_test("bf16");
  const std::filesystem::path run = folder.path() / "run";
  ASSERT_TRUE(train(config, recipe, run, Resume::No, kNeverStop, {}));
  Llama wide(config.model, recipe, 99);
  Llama half(config.model, recipe, 98, DType::BF16, Device::Cpu, {.half_weights = true});
  load_weights(newest_checkpoint(run).value(), wide);
  load_weights(newest_checkpoint(run).value(), half);
  for (std::size_t i = 0; i < wide.parameters().size(); ++i) {
    EXPECT_EQ(half.parameters()[i].in_half(),
              wide.parameters()[i].name.find("layers.") == 0 && wide.parameters()[i].value.dims() == 2);
    EXPECT_EQ(floats(values_of(wide.parameters()[i])), floats(values_of(half.parameters()[i])));
  }
}

}  // namespace
}  // namespace nibble
