// What a run is said to take, against what its arenas take.
#include "nibble/model/memory.h"

#include <gtest/gtest.h>

#include "nibble/model/llama.h"
#include "tests/recipe/shipped_recipes.h"

namespace nibble {
namespace {

LlamaConfig model_of(std::int64_t layers, std::int64_t width, std::int64_t ffn, std::int64_t vocab, std::int64_t seq) {
  LlamaConfig c;
  c.layers = layers;
  c.width = width;
  c.heads = width / 64;
  c.kv_heads = c.heads;
  c.ffn = ffn;
  c.vocab = vocab;
  c.seq = seq;
  return c;
}

/// What the arenas of a model reached: in each stage two steps, after the first of which outlier channels are chosen,
/// and the second of which is measured if `q` says so.
struct Reached {
  double activations = 0, working_copies = 0;
};
Reached reached(const MemoryQuestion& q) {
  const ParameterStorage storage{.half_weights = q.linears.weight == 2,
                                 .gradients = q.linears.gradient == 2 ? DType::BF16 : DType::F32};
  Llama model(q.model, q.recipe, 1, DType::BF16, Device::Cpu, storage);
  model.set_recompute(q.recompute);
  model.reserve(plan_memory(q));
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(q.sequences * q.model.seq));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<std::int32_t>(i * 31 % static_cast<std::size_t>(q.model.vocab));
  }
  const Tensor batch = Tensor::of(tokens.data(), {q.sequences, q.model.seq});
  const auto n = static_cast<std::int64_t>(tokens.size());
  const std::int64_t passes = q.several_passes ? 2 : 1;
  for (std::size_t stage = 0; stage < q.recipe.stages.size(); ++stage) {
    model.set_stage(stage);
    const OutlierChannels& outliers = q.recipe.stages[stage].linear.back().outlier_channels;
    auto step = static_cast<std::uint32_t>(outliers.enabled() ? outliers.last_step : 1);
    for (const bool second : {false, true}) {
      const bool measured = q.measured && second;
      model.prepare(step, measured);
      for (std::int64_t pass = 0; pass < passes; ++pass) {
        model.forward_backward({batch, batch}, 1e-3, step, pass * n, pass == 0, measured, passes * n);
      }
      model.after_update(step++, 10000);
    }
  }
  return {static_cast<double>(model.activation_peak_bytes()), static_cast<double>(model.working_copy_peak_bytes())};
}

void expect_within(double predicted, double got, double share, const std::string& what) {
  EXPECT_NEAR(predicted / got, 1, share) << what << ": " << predicted << " predicted, " << got << " reached";
}

class PlanOf : public testing_support::ShippedRecipe {};

TEST_P(PlanOf, IsWithinFivePerCentOfTheArenas) {
  MemoryQuestion q{.model = model_of(2, 256, 512, 300, 256), .recipe = recipe_, .sequences = 6};
  for (const Recompute level : {Recompute::None, Recompute::BlockParts, Recompute::Block}) {
    q.recompute = level;
    q.measured = level == Recompute::BlockParts;
    q.several_passes = level != Recompute::None;
    if (level == Recompute::Block) q.linears = {2, 2, 1, 2};
    const MemoryPlan plan = plan_memory(q);
    const Reached got = reached(q);
    const std::string what = recipe_.name + ", level " + std::to_string(static_cast<int>(level));
    expect_within(plan.activations + plan.inputs, got.activations, 0.05, what + ", activations");
    expect_within(plan.working_copies, got.working_copies, 0.05, what + ", working copies");
  }
}
INSTANTIATE_TEST_SUITE_P(Recipes, PlanOf, testing::ValuesIn(testing_support::shipped_recipes()),
                         testing_support::recipe_test_name);

TEST(MemoryPlan, IsWithinFivePerCentOfTheArenasForModelsOfManyShapes) {
  const Recipe bf16 = unquantised_recipe(ElementFormat::BF16);
  for (const LlamaConfig& model : {model_of(1, 256, 640, 8000, 512), model_of(6, 128, 512, 300, 512),
                                   model_of(2, 512, 512, 2000, 128), model_of(2, 128, 1408, 100, 1024)}) {
    for (const std::int64_t sequences : {3}) {
      const MemoryQuestion q{.model = model, .recipe = bf16, .sequences = sequences, .measured = false};
      const MemoryPlan plan = plan_memory(q);
      expect_within(plan.activations + plan.inputs, reached(q).activations, 0.05,
                    "width " + std::to_string(model.width) + ", sequences " + std::to_string(sequences));
    }
  }
}

TEST(MemoryPlan, IsWithinFivePerCentOfTheArenasForHeadsWithBiasNormAndWidthOfTheirOwn) {
  LlamaConfig model = model_of(2, 256, 512, 300, 256);
  model.qkv_bias = model.qk_norm = true;
  model.own_head_dim = 128;
  model.kv_heads = 2;
  for (const Recompute level : {Recompute::None, Recompute::BlockParts, Recompute::Block}) {
    const MemoryQuestion q{.model = model,
                           .recipe = unquantised_recipe(ElementFormat::BF16),
                           .sequences = 6,
                           .recompute = level,
                           .measured = false};
    const MemoryPlan plan = plan_memory(q);
    expect_within(plan.activations + plan.inputs, reached(q).activations, 0.05,
                  "level " + std::to_string(static_cast<int>(level)));
  }
}

TEST(MemoryPlan, CountsEveryParameterAndState) {
  MemoryQuestion q{.model = model_of(2, 128, 256, 100, 64), .recipe = unquantised_recipe(ElementFormat::BF16)};
  q.linears = {2, 2, 1, 2};
  q.others = {4, 4, 4, 4};
  const auto parameters = static_cast<double>(q.model.parameters());
  const double linears = 2.0 * (128 * 3 * 128 + 128 * 128 + 512 * 128 + 128 * 256);
  const MemoryPlan plan = plan_memory(q);
  EXPECT_EQ(plan.parts[0].name, "weights");
  EXPECT_DOUBLE_EQ(plan.parts[0].bytes, 2 * linears + 4 * (parameters - linears));
  EXPECT_DOUBLE_EQ(plan.parts[2].bytes, linears + 4 * (parameters - linears));
  double sum = 0;
  for (const MemoryPart& part : plan.parts) sum += part.bytes;
  EXPECT_DOUBLE_EQ(plan.total(), sum);
}

TEST(MemoryPlan, AGpuThatReadsFpropsCodesWritesNoValuesOut) {
  const std::string root = NIBBLE_SOURCE_DIR;
  MemoryQuestion q{.model = load_llama_config(root + "/models/llama-1.3b.toml"),
                   .recipe = load_recipe(root + "/recipes/quartet.toml"),
                   .sequences = 16,
                   .measured = false};
  q.model.ffn = 16384;        // at 5632 other scratch of the same step is as large
  Recipe written = q.recipe;  // with the values rounded on the way in, which takes them in F32
  for (LinearRecipe& linear : written.stages.front().linear) linear[Operand::WgradX].quant.bf16_input = true;
  for (const Device device : {Device::Cpu, Device::Cuda}) {
    q.device = device;
    MemoryQuestion of_values = q;
    of_values.recipe = written;
    const double more = plan_memory(of_values).total() - plan_memory(q).total();
    if (device == Device::Cpu) {
      EXPECT_EQ(more, 0);
    } else {
      EXPECT_GT(more, 128e6);
    }
  }
}

TEST(MemoryPlan, AGpuThatQuantisesWhatNormsMakeHoldsNoInputs) {
  const std::string root = NIBBLE_SOURCE_DIR;
  MemoryQuestion q{.model = load_llama_config(root + "/models/llama-1.3b.toml"),
                   .recipe = load_recipe(root + "/recipes/fp4-direct.toml"),
                   .sequences = 8,
                   .measured = false,
                   .device = Device::Cuda};
  const double swiglu = 2.0 * 8 * 2048 * 5632;  // the largest X
  EXPECT_GE(plan_memory(q).inputs, swiglu);
  q.recipe = load_recipe(root + "/recipes/wang2025.toml");
  EXPECT_LT(plan_memory(q).inputs, 0.02 * swiglu);  // magnitudes of the stream's gradient
  q.measured = true;                                // which reads X
  EXPECT_GE(plan_memory(q).inputs, swiglu);
  q.measured = false;
  q.device = Device::Cpu;
  EXPECT_GE(plan_memory(q).inputs, swiglu);
}

TEST(MemoryPlan, FallsWithEachLevelAndWithTheBatch) {
  for (const Device device : {Device::Cpu, Device::Cuda}) {
    MemoryQuestion q{.model = load_llama_config(std::string(NIBBLE_SOURCE_DIR) + "/models/llama-1.3b.toml"),
                     .recipe = unquantised_recipe(ElementFormat::BF16),
                     .sequences = 8,
                     .device = device};
    double last = 0;
    for (const Recompute level : {Recompute::Block, Recompute::BlockParts, Recompute::None}) {
      q.recompute = level;
      const double total = plan_memory(q).total();
      EXPECT_GT(total, 1.05 * last);
      last = total;
    }
    q.sequences = 6;
    EXPECT_LT(plan_memory(q).total(), 0.9 * last);
  }
}

}  // namespace
}  // namespace nibble
