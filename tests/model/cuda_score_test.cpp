// Scores of packed sequences on the GPU against the CPU's.
#include <cmath>
#include <random>

#include "nibble/model/llama.h"
#include "tests/cuda_testing.h"
#include "tests/model/small_llama.h"

namespace nibble {
namespace {

using Ids = std::vector<std::int32_t>;

std::vector<TokenScore> score_on(Device device, const Recipe& recipe, DType activations) {
  const LlamaConfig c = testing_support::small_llama(2);
  Llama model(c, recipe, 3, activations, device);
  model.prepare(0, false);
  std::mt19937 random(5);
  const auto token = [&] { return static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(c.vocab)); };
  Ids context(21);
  for (std::int32_t& id : context) id = token();
  std::vector<Ids> sequences(3, context);
  for (std::size_t i = 0; i < 9; ++i) sequences[i % 2].push_back(token());
  const PackedSequences packed = pack_sequences(sequences);
  std::vector<TokenQuery> queries;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    for (std::size_t i = 0; i + 1 < sequences[s].size(); ++i) {
      queries.push_back({packed.rows[s][i], sequences[s][i + 1]});
    }
  }
  return model.score(packed, queries, true);
}

void expect_same_scores(const Recipe& recipe, DType activations, double tolerance) {
  const std::vector<TokenScore> expected = score_on(Device::Cpu, recipe, activations);
  const std::vector<TokenScore> got = score_on(Device::Cuda, recipe, activations);
  ASSERT_EQ(expected.size(), got.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i].log_probability, expected[i].log_probability, tolerance) << "query " << i;
    EXPECT_TRUE(activations != DType::F32 || got[i].greedy == expected[i].greedy) << "query " << i;
  }
}

TEST(CudaScore, PackedSequencesScoreAsOnTheCpu) {
  NIBBLE_NEEDS_GPU();
  expect_same_scores(unquantised_recipe(ElementFormat::F32), DType::F32, 1e-4);
  expect_same_scores(unquantised_recipe(ElementFormat::BF16), DType::BF16, 0.05);
}

}  // namespace
}  // namespace nibble
