// Memory as a run sees it: refused before the first step, told at its beginning and its end, and less of it by
// computing again.
#include "nibble/train/memory.h"

#include "nibble/tensor/device.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

TrainConfig config_1b() {
  TrainConfig c;
  c.model = load_llama_config(std::string(NIBBLE_SOURCE_DIR) + "/models/llama-1.3b.toml");
  c.steps = 10;
  c.batch = c.micro_batch = 16;
  return c;
}

double needed(const TrainConfig& config, const Recipe& recipe) {
  return plan_memory(memory_question(config, recipe)).total();
}

TEST(Memory, ARunThatFitsIsNotRefused) {
  const TrainConfig config = config_1b();
  const Recipe recipe = recipe_for_test("bf16");
  const double bytes = needed(config, recipe);
  EXPECT_EQ(memory_refusal(config, recipe, {"a device", bytes}), "");
  EXPECT_NE(memory_refusal(config, recipe, {"a device", bytes - 1}), "");
}

TEST(Memory, ARefusalNamesWhatIsNeededAndTheSettingsThatFit) {
  const TrainConfig config = config_1b();
  const Recipe recipe = recipe_for_test("bf16");
  const auto bytes = [&](Recompute recompute, std::int64_t micro_batch, OptimizerKind optimizer,
                         DType gradients = DType::F32) {
    TrainConfig c = config;
    c.recompute = recompute;
    c.micro_batch = micro_batch;
    c.optimizer = optimizer;
    c.gradients = gradients;
    return needed(c, recipe);
  };
  const auto expect = [&](double there_are, const std::string& part) {
    const std::string refusal = memory_refusal(config, recipe, {"a device", there_are});
    EXPECT_NE(refusal.find(part), std::string::npos) << part << " is not in: " << refusal;
    EXPECT_EQ(refusal.find('\n'), std::string::npos);
  };
  constexpr auto kPlain = OptimizerKind::AdamW;
  constexpr auto kFp8 = OptimizerKind::AdamWFp8;

  // Between two levels of recomputation: the higher one, or a smaller pass.
  const double middle = bytes(Recompute::BlockParts, 16, kPlain) - 1;
  expect(middle,
         fmt::format("needs {} of memory, a device has {}", memory_text(needed(config, recipe)), memory_text(middle)));
  expect(middle, "set train.recompute = \"block\" (");
  expect(middle, "or set train.micro_batch = 8 (");

  // Less than one sequence a pass takes: both together; then less by the optimizer, and by the gradients as well.
  const double little = bytes(Recompute::Block, 2, kPlain);
  ASSERT_LT(little, bytes(Recompute::None, 1, kPlain));
  expect(little, "set train.recompute = \"block\", train.micro_batch = 2 (");
  const double less = bytes(Recompute::Block, 1, kFp8);
  ASSERT_LT(less, bytes(Recompute::Block, 1, kPlain));
  expect(less, "optimizer.kind = \"adamw-fp8\", train.micro_batch = 1 (");
  const double least = bytes(Recompute::Block, 1, kFp8, DType::BF16);
  ASSERT_LT(least, less);
  expect(least, "train.gradients = \"bf16\", train.micro_batch = 1 (");
  expect(least - 1, "choose a smaller model");
}

TEST(Memory, Llama2With7BFitsIntoOneGpuOf80GBByFp8StatesAndRecomputation) {
  TrainConfig config = config_1b();
  config.model = load_llama_config(std::string(NIBBLE_SOURCE_DIR) + "/models/llama2-7b.toml");
  config.model.seq = 2048;
  config.batch = 64;
  config.micro_batch = 8;
  config.device = Device::Cuda;
  config.recompute = Recompute::Block;
  config.gradients = DType::BF16;
  const double usable = 79.0 * (1 << 30);  // of an H100 with "80 GB"
  for (const char* name : {"bf16", "fp4-direct", "quartet", "quartet2"}) {
    config.optimizer = OptimizerKind::AdamWFp8;
    EXPECT_LT(needed(config, recipe_for_test(name)), usable) << name;
    config.optimizer = OptimizerKind::AdamW;
    EXPECT_GT(needed(config, recipe_for_test(name)), usable) << name;
  }
}

TEST(Memory, AModelBeyondTheMachineIsRefusedBeforeAnythingIsAllocated) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 2);
  config.model.layers = 2000;
  config.model.width = 32768;
  config.model.heads = config.model.kv_heads = 256;
  config.model.ffn = 65536;
  EXPECT_USER_ERROR(train(config, recipe_for_test("bf16"), folder.path() / "run", Resume::No, kNeverStop, {}),
                    "of memory, the CPU has");
}

TEST(Memory, IsToldBeforeTheFirstStepAndAfterTheLast) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 2);
  config.model.ffn = 64;
  std::vector<std::string> told;
  TrainCallbacks callbacks;
  callbacks.on_memory = [&](const std::string& text) { told.push_back(text); };
  callbacks.on_step = [&](const StepReport&) { EXPECT_EQ(told.size(), 1u); };
  const fs::path run = folder.path() / "run";
  ASSERT_TRUE(train(config, recipe_for_test("quartet"), run, Resume::No, kNeverStop, callbacks));
  ASSERT_EQ(told.size(), 2u);
  EXPECT_NE(told[0].find("working copies of the weights"), std::string::npos) << told[0];
  EXPECT_NE(told[1].find("at most"), std::string::npos) << told[1];
  const nlohmann::json memory = nlohmann::json::parse(read_file(run / "run.json"))["memory"];
  const double peak = nlohmann::json::parse(read_file(run / "result.json"))["memory_peak_bytes"].get<double>();
  EXPECT_GT(peak, 4.0 * memory["weight_bytes"].get<double>());
  // Tiles of the threads are a good part of so small a run.
  EXPECT_NEAR(memory["predicted"]["total"].get<double>() / peak, 1, 0.3);
}

TEST(Memory, ARunThatComputesAgainIsTheSameRunAndResumesAtAnyLevel) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 6);
  for (const char* name : {"bf16", "tests/recipe/stochastic.toml"}) {
    const Recipe recipe = recipe_for_test(name);
    const fs::path kept = folder.path() / "kept" / recipe.name;
    const fs::path again = folder.path() / "again" / recipe.name;
    config.recompute = Recompute::None;
    ASSERT_TRUE(train(config, recipe, kept, Resume::No, kNeverStop, {}));
    config.recompute = Recompute::Block;
    EXPECT_FALSE(train_until(4, config, recipe, again));
    config.recompute = Recompute::BlockParts;
    EXPECT_TRUE(train_until(6, config, recipe, again));
    EXPECT_EQ(metrics_without_rates(kept), metrics_without_rates(again));
    const fs::path a = newest_checkpoint(kept).value();
    const fs::path b = newest_checkpoint(again).value();
    for (const auto& entry : fs::directory_iterator(a)) {
      if (entry.path().filename() == "state.json") continue;  // holds the settings, this one among them
      EXPECT_TRUE(read_file(entry.path()) == read_file(b / entry.path().filename())) << entry.path();
    }
  }
}

TEST(Device, AutoIsTheGpuWhereThereIsOne) {
  const Device found = cuda_devices() > 0 ? Device::Cuda : Device::Cpu;
  EXPECT_EQ(device_of("auto"), found);
  EXPECT_EQ(device_of("cpu"), Device::Cpu);
  EXPECT_USER_ERROR(device_of("gpu"), "must be cpu, cuda or auto");
  TemporaryDirectory folder;
  ConfigTable table = ConfigTable::parse_text(small_config_text("somewhere", 1), "small.toml");
  table.set("train.device=auto");
  const TrainConfig config = read_train_config(table);
  EXPECT_EQ(config.device, found);
  EXPECT_NE(to_toml(config).find(found == Device::Cpu ? "device = \"cpu\"" : "device = \"cuda\""), std::string::npos);
}

}  // namespace
}  // namespace nibble
