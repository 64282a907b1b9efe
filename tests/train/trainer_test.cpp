#include "nibble/train/trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/io/run_log.h"
#include "nibble/io/safetensors.h"
#include "nibble/model/hugging_face.h"
#include "nibble/train/compare.h"
#include "nibble/train/metrics.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

TEST(Trainer, LearnsAnEasySequenceInEveryRecipe) {
  TemporaryDirectory folder;
  const fs::path data = write_small_data(folder.path());
  for (const char* name : {"bf16", "fp4-direct", "wang2025", "wang2025-released"}) {
    const TrainConfig config = small_config(data, 60);
    ASSERT_TRUE(train(config, recipe_for_test(name), folder.path() / name, Resume::No, kNeverStop, {}));
    const RunFigures s = final_figures(load_run(folder.path() / name));
    EXPECT_EQ(s.steps, 60);
    EXPECT_EQ(s.tokens, 60 * 4 * 16);
    EXPECT_LT(s.val_loss, 3.0) << name;  // uniform guessing gives log 64 = 4.16
  }
}

std::vector<nlohmann::json> metrics_of(const fs::path& run) {
  std::istringstream in(read_file(run / "metrics.jsonl"));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

TEST(Trainer, LogsTelemetryOfEveryQuantisedLayer) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 4);
  config.quality_every = 4;
  Recipe recipe = recipe_for_test("quartet");
  recipe.exempt = {"layers.1.mlp.*"};
  config.model.ffn = 64;
  ASSERT_TRUE(train(config, recipe, folder.path() / "run", Resume::No, kNeverStop, {}));
  const std::vector<nlohmann::json> lines = metrics_of(folder.path() / "run");
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const bool measured = i == 0 || i == 3;
    for (const char* key : {"quality", "products", "oscillation", "gradient_to_noise", "layers"}) {
      EXPECT_EQ(lines[i].contains(key), measured) << "step " << i + 1 << " " << key;
    }
  }
  const nlohmann::json& line = lines[3];
  EXPECT_GT(line["gradient_to_noise"].get<double>(), 0.5);
  EXPECT_NEAR(line["gradient_to_noise"].get<double>(), 1 / line["products"]["wgrad"]["noise"].get<double>(), 1e-9);
  EXPECT_GT(line["oscillation"].get<double>(), 0);
  EXPECT_EQ(line["layers"].size(), 8u);
  for (const auto& [name, layer] : line["layers"].items()) {
    const bool exempt = name.starts_with("layers.1.mlp.");
    EXPECT_EQ(layer.contains("products"), !exempt) << name;
    EXPECT_EQ(layer.contains("oscillation"), !exempt) << name;
    if (exempt) continue;
    for (const char* operand : {"fprop.x", "fprop.w", "dgrad.dy", "dgrad.w", "wgrad.dy", "wgrad.x"}) {
      ASSERT_TRUE(layer.contains(operand)) << name << " " << operand;
      const nlohmann::json& q = layer[operand];
      EXPECT_GT(q["snr_db"].get<double>(), 5) << name << " " << operand;
      for (const char* key : {"underflow", "clamped", "clipped", "scale_saturated", "scale_underflow"}) {
        EXPECT_GE(q[key].get<double>(), 0) << key;
        EXPECT_LE(q[key].get<double>(), 1) << key;
      }
      EXPECT_LT(std::abs(q["bias"].get<double>()), 0.5);
    }
    for (const char* product : {"fprop", "dgrad", "wgrad"}) {
      EXPECT_GT(layer["products"][product]["cosine"].get<double>(), 0.5) << name << " " << product;
      EXPECT_NEAR(layer["products"][product]["magnitude"].get<double>(), 1, 0.5) << name << " " << product;
    }
  }
}

TEST(Trainer, SwitchesTheStageAtItsFractionAndSaysSo) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 8);
  config.quality_every = 1;
  Recipe recipe = recipe_for_test("zhou2025");
  ASSERT_EQ(recipe.stages.size(), 2u);
  recipe.stages[1].from = 0.5;
  recipe.stages[1].rewarm_steps = 2;
  std::vector<std::string> messages;
  TrainCallbacks callbacks;
  callbacks.on_message = [&](const std::string& text) { messages.push_back(text); };
  ASSERT_TRUE(train(config, recipe, folder.path() / "run", Resume::No, kNeverStop, callbacks));
  EXPECT_EQ(messages, std::vector<std::string>{"stage 2 of 2 from step 5: 50 % of the run are done; the learning rate "
                                               "climbs again over 2 steps"});
  for (const nlohmann::json& line : metrics_of(folder.path() / "run")) {
    const bool second = line["step"] > 4;
    EXPECT_EQ(line["stage"], second ? 2 : 1);
    EXPECT_EQ(line.contains("products"), !second) << "in BF16 there is nothing to hold a product against";
  }
  EXPECT_NEAR(metrics_of(folder.path() / "run")[4]["lr"].get<double>(), 0.5 * config.lr, 1e-12);
}

TEST(Trainer, AMonitorNeedsMeasurements) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 2);
  config.quality_every = 0;
  EXPECT_USER_ERROR(
      train(config, recipe_for_test("fp4-all-the-way"), folder.path() / "run", Resume::No, kNeverStop, {}),
      "set log.quality_every");
}

TEST(Trainer, AResumedRunMayMeasureAtOtherStepsUnlessTheRecipeMonitors) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 4);
  for (const char* name : {"nvfp4", "fp4-all-the-way"}) {
    const Recipe recipe = recipe_for_test(name);
    config.quality_every = 4;
    EXPECT_FALSE(train_until(2, config, recipe, folder.path() / name));
    config.quality_every = 2;
    const auto resume = [&] { train(config, recipe, folder.path() / name, Resume::Required, kNeverStop, {}); };
    if (recipe.has_monitor()) {
      EXPECT_USER_ERROR(resume(), "was trained with quality_every = 4, this run has quality_every = 2");
    } else {
      resume();
    }
  }
}

TEST(Trainer, AStoppingAlarmSavesTheRunWhichCanGoOn) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 6);
  const Recipe recipe = recipe_for_test("fp4-direct");
  config.alarms.threshold[static_cast<std::size_t>(AlarmKind::Underflow)] = 1e-4;
  const fs::path through = folder.path() / "through";
  ASSERT_TRUE(train(config, recipe, through, Resume::No, kNeverStop, {}));
  ASSERT_TRUE(metrics_of(through)[0].contains("alarms"));
  EXPECT_FALSE(metrics_of(through)[3].contains("alarms")) << "an alarm that stays is told once";

  const fs::path run = folder.path() / "run";
  config.alarms.stops.fill(true);
  std::vector<std::string> messages;
  TrainCallbacks callbacks;
  callbacks.on_message = [&](const std::string& text) { messages.push_back(text); };
  try {
    train(config, recipe, run, Resume::No, kNeverStop, callbacks);
    FAIL() << "no alarm";
  } catch (const AlarmStop& stop) {
    EXPECT_EQ(std::string(stop.what()).find("alarm at step 1: "), 0u) << stop.what();
    ASSERT_FALSE(messages.empty());
    EXPECT_EQ(messages[0], stop.what());
  }
  EXPECT_EQ(load_state(newest_checkpoint(run).value()).step, 1);
  ASSERT_TRUE(train(config, recipe, run, Resume::Required, kNeverStop, {}));
  EXPECT_EQ(metrics_without_rates(run), metrics_without_rates(through));
}

TEST(Trainer, ResetWeightsReachTheOptimizersMaster) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 4);
  config.optimizer = OptimizerKind::AdamWFp8;
  Recipe recipe = recipe_for_test("bf16");
  LinearRecipe& linear = recipe.stages[0].linear.back();
  linear[Operand::FpropW].quant.element = ElementFormat::E2M1;
  linear[Operand::FpropW].quant.scale = ScaleRule::Absmax;
  // Step 4, the last, closes the only window.
  linear.oscillation_reset = {.threshold = 1e-3, .start_fraction = 0.75, .period = 9, .window = 1};
  const fs::path run = folder.path() / "run";
  ASSERT_TRUE(train(config, recipe, run, Resume::No, kNeverStop, {}));
  EXPECT_GT(metrics_of(run)[3]["weights_reset"].get<int>(), 0);

  const fs::path checkpoint = newest_checkpoint(run).value();
  Llama model(config.model, recipe, config.seed);
  load_weights(checkpoint, model);
  const SafetensorsFile states(checkpoint / "optimizer.safetensors");
  for (const Parameter& p : model.parameters()) {
    OwnedTensor master(DType::F32, p.value.shape());
    scaled_load({states.view(p.name + ".master"), states.view(p.name + ".master.scale_inv")}, master);
    EXPECT_EQ(std::memcmp(master.view().raw(), p.value.raw(), p.value.bytes()), 0) << p.name;
  }
}

TEST(Trainer, AnExistingRunIsNotOverwritten) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 2);
  const fs::path run = folder.path() / "run";
  train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {});
  EXPECT_THROW(train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {}), UserError);
}

TEST(Trainer, ResumeWithOtherSettingsNamesTheDifference) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 4);
  const fs::path run = folder.path() / "run";
  train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {});
  config.lr = 0.02;
  try {
    train(config, recipe_for_test("bf16"), run, Resume::Required, kNeverStop, {});
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("was trained with lr = 0.01, this run has lr = 0.02"), std::string::npos)
        << e.what();
  }
}

TEST(Trainer, ResumeOnOtherDataIsRefused) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 4);
  const fs::path run = folder.path() / "run";
  train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {});
  write_split(config.data / "train-00000.bin", 4000, 77);
  EXPECT_THROW(train(config, recipe_for_test("bf16"), run, Resume::Required, kNeverStop, {}), UserError);
}

TEST(Trainer, ALossThatIsNotFiniteStopsBeforeTheUpdateAndNamesTheTensor) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 60);
  config.clip = 0;
  config.lr = 10;  // drives the weights to where BF16 overflows
  config.eps = 0;
  config.weight_decay = 10;
  const fs::path run = folder.path() / "run";
  std::int64_t last = 0;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& r) { last = r.step; };
  try {
    train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, callbacks);
    FAIL() << "60 steps at this learning rate stayed finite";
  } catch (const UserError& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("not finite, first in the "), std::string::npos) << text;
    EXPECT_NE(text.find(fmt::format("step {}:", last + 1)), std::string::npos) << text;
  }
  EXPECT_EQ(final_figures(load_run(run)).steps, last);
}

TEST(Checkpoint, ADamagedNewestOneIsPassedOver) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 6);
  const fs::path run = folder.path() / "run";
  train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {});
  const fs::path newest = newest_checkpoint(run).value();
  {
    std::fstream file(newest / "optimizer.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('\x5a');
  }
  std::vector<std::string> warnings;
  const auto found = newest_checkpoint(run, [&](const std::string& w) { warnings.push_back(w); });
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->filename(), "step-00000003");
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("optimizer.safetensors' is damaged"), std::string::npos);
  fs::remove(newest / "state.json");
  EXPECT_EQ(newest_checkpoint(run)->filename(), "step-00000003");
}

/// Makes the checkpoint one of the first format, which knew neither stages nor alarms nor recipe state.
void make_first_format(const fs::path& checkpoint) {
  nlohmann::json state = nlohmann::json::parse(read_file(checkpoint / "state.json"));
  state["format"] = 1;
  for (const char* key : {"stage", "alarms"}) state.erase(key);
  state["checksums"].erase("recipe.safetensors");
  fs::remove(checkpoint / "recipe.safetensors");
  std::ofstream(checkpoint / "state.json") << state.dump();
}

TEST(Checkpoint, OfTheFirstFormatLoadsForARecipeWithoutState) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 6);
  const fs::path whole = folder.path() / "whole";
  const fs::path parts = folder.path() / "parts";
  const Recipe recipe = recipe_for_test("wang2025");
  train(config, recipe, whole, Resume::No, kNeverStop, {});
  EXPECT_FALSE(train_until(4, config, recipe, parts));
  make_first_format(newest_checkpoint(parts).value());
  EXPECT_TRUE(train(config, recipe, parts, Resume::Required, kNeverStop, {}));
  EXPECT_EQ(metrics_without_rates(whole), metrics_without_rates(parts));
}

TEST(Checkpoint, WithoutTheStateThatItsRecipeNeedsIsRefused) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 6);
  const fs::path run = folder.path() / "run";
  const Recipe recipe = recipe_for_test("tetrajet");
  EXPECT_FALSE(train_until(2, config, recipe, run));
  make_first_format(newest_checkpoint(run).value());
  EXPECT_USER_ERROR(train(config, recipe, run, Resume::Required, kNeverStop, {}),
                    "holds no state of the recipe 'tetrajet', which needs some");
}

TEST(Checkpoint, DamageToTheRecipesStateIsNoticed) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 6);
  const fs::path run = folder.path() / "run";
  train(config, recipe_for_test("tetrajet"), run, Resume::No, kNeverStop, {});
  const fs::path newest = newest_checkpoint(run).value();
  std::fstream file(newest / "recipe.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x5a');
  file.close();
  EXPECT_USER_ERROR(load_state(newest), "recipe.safetensors' is damaged");
}

TEST(Checkpoint, OnlyTheNewestAreKept) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 9);
  config.checkpoint_every = 1;
  config.keep_checkpoints = 3;
  train(config, recipe_for_test("bf16"), folder.path() / "run", Resume::No, kNeverStop, {});
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path() / "run" / "checkpoints")) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"step-00000007", "step-00000008", "step-00000009"}));
}

TEST(Compare, WritesLossGapAndNoiseAndSkipsCompleteRuns) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 8);
  CompareOptions options;
  const std::string root = NIBBLE_SOURCE_DIR;
  options.recipes = {root + "/recipes/bf16.toml", root + "/recipes/fp4-direct.toml"};
  options.out = folder.path() / "compare";
  ASSERT_TRUE(compare(config, options, kNeverStop, {}));
  const nlohmann::json json = nlohmann::json::parse(read_file(options.out / "compare.json"));
  ASSERT_EQ(json["runs"].size(), 3u);  // bf16 with two seeds, fp4-direct with one
  EXPECT_EQ(json["runs"][0]["gap_percent"], 0.0);
  const double bf16 = json["runs"][0]["val_loss"].get<double>();
  const double direct = json["runs"][1]["val_loss"].get<double>();
  EXPECT_NEAR(json["runs"][1]["gap_percent"].get<double>(), 100 * (direct - bf16) / bf16, 1e-9);
  const double other = json["runs"][2]["val_loss"].get<double>();
  EXPECT_NEAR(json["noise_percent"].get<double>(), 100 * std::abs(other - bf16) / ((other + bf16) / 2), 1e-9);
  EXPECT_GT(json["runs"][1]["quality"]["fprop.x"]["snr_db"].get<double>(), 10);

  int steps = 0;
  CompareCallbacks callbacks;
  callbacks.train.on_step = [&](const StepReport&) { ++steps; };
  ASSERT_TRUE(compare(config, options, kNeverStop, callbacks));
  EXPECT_EQ(steps, 0);
}

TEST(Compare, GivesEachRecipesMeanGapAndItsStandardError) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 4);
  CompareOptions options;
  const std::string root = NIBBLE_SOURCE_DIR;
  options.recipes = {root + "/recipes/bf16.toml", root + "/recipes/fp4-direct.toml"};
  options.seeds = 2;
  options.out = folder.path() / "compare";
  ASSERT_TRUE(compare(config, options, kNeverStop, {}));
  const nlohmann::json json = nlohmann::json::parse(read_file(options.out / "compare.json"));
  std::vector<double> gaps;
  for (const auto& run : json["runs"]) {
    if (run["recipe"] == "fp4-direct") gaps.push_back(run["gap_percent"].get<double>());
  }
  ASSERT_EQ(gaps.size(), 2u);
  ASSERT_EQ(json["recipes"].size(), 2u);
  const nlohmann::json& direct = json["recipes"][1];
  EXPECT_EQ(direct["recipe"], "fp4-direct");
  EXPECT_EQ(direct["seeds"], (nlohmann::json{3, 4}));
  EXPECT_NEAR(direct["gap_percent"].get<double>(), (gaps[0] + gaps[1]) / 2, 1e-12);
  EXPECT_NEAR(direct["gap_percent_standard_error"].get<double>(), std::abs(gaps[0] - gaps[1]) / 2, 1e-12)
      << "of two values: their standard deviation |a - b| / sqrt(2), over sqrt(2)";
  EXPECT_EQ(json["recipes"][0]["gap_percent"], 0.0);
}

TEST(Compare, AStoppedComparisonGoesOnToTheSameFigures) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 8);
  CompareOptions options;
  const std::string root = NIBBLE_SOURCE_DIR;
  options.recipes = {root + "/recipes/bf16.toml", root + "/recipes/wang2025.toml"};
  options.out = folder.path() / "whole";
  ASSERT_TRUE(compare(config, options, kNeverStop, {}));
  CompareOptions stopped = options;
  stopped.out = folder.path() / "parts";
  bool complete = false;
  int budget = 5;
  while (!complete) {
    std::atomic<bool> stop{false};
    int left = budget;
    CompareCallbacks callbacks;
    callbacks.train.on_step = [&](const StepReport&) { stop = --left <= 0; };
    complete = compare(config, stopped, stop, callbacks);
    ++budget;
  }
  for (const char* run : {"bf16-s3", "wang2025-s3", "bf16-s4"}) expect_same_run(options.out / run, stopped.out / run);
}

TEST(Schedule, WarmsUpLinearlyAndEndsAtTheRatio) {
  TrainConfig c;
  c.steps = 1000;
  c.lr = 2e-3;
  EXPECT_NEAR(learning_rate(c, 1), 2e-5, 1e-12);
  EXPECT_NEAR(learning_rate(c, 100), 2e-3, 1e-12);
  EXPECT_NEAR(learning_rate(c, 550), 2e-3 * 0.55, 1e-9);
  EXPECT_NEAR(learning_rate(c, 1000), 2e-4, 1e-12);
  c.schedule = Schedule::Wsd;
  EXPECT_NEAR(learning_rate(c, 799), 2e-3, 1e-12);
  EXPECT_NEAR(learning_rate(c, 900), 2e-3 * 0.55, 1e-9);
  EXPECT_NEAR(learning_rate(c, 1000), 2e-4, 1e-12);
}

TEST(Schedule, BeginsAnewOverWhatIsLeftAfterARewarm) {
  TrainConfig c;
  c.steps = 1000;
  c.lr = 2e-3;
  const auto lr = [&](std::int64_t step) { return learning_rate(c, step, 801, 40); };
  EXPECT_EQ(lr(800), learning_rate(c, 800)) << "before, nothing changes";
  EXPECT_NEAR(lr(801), 2e-3 / 40, 1e-12);
  EXPECT_NEAR(lr(820), 2e-3 / 2, 1e-12);
  EXPECT_NEAR(lr(840), 2e-3, 1e-12);
  EXPECT_NEAR(lr(920), 2e-3 * 0.55, 1e-12) << "half of the cosine over the 160 steps left";
  EXPECT_NEAR(lr(1000), 2e-4, 1e-12);
  c.schedule = Schedule::Wsd;
  EXPECT_NEAR(lr(960), 2e-3, 1e-12) << "the decay takes a fifth of the 200 steps";
  EXPECT_NEAR(lr(980), 2e-3 * 0.55, 1e-12);
  EXPECT_NEAR(lr(1000), 2e-4, 1e-12);
}

TEST(TrainConfig, PrintsToTheSameConfiguration) {
  TrainConfig c = small_config("data", 10);
  c.lr = 0.0123456789;
  c.gradients = DType::BF16;
  c.recompute = Recompute::Block;
  c.mxfp4_products = MxProducts::Bf16;
  c.fp8_accumulation = Fp8Accumulation::Fast;
  c.cuda_graphs = true;
  const std::string text = to_toml(c);
  const TrainConfig read = read_train_config(ConfigTable::parse_text(text, "printed"));
  EXPECT_EQ(to_toml(read), text);
  EXPECT_EQ(read.mxfp4_products, MxProducts::Bf16);
  EXPECT_EQ(read.fp8_accumulation, Fp8Accumulation::Fast);
  EXPECT_TRUE(read.cuda_graphs);
}

TEST(TrainConfig, OverridesApplyAndUnknownKeysAreRefused) {
  ConfigTable table = ConfigTable::parse_text(small_config_text("data", 10), "small.toml");
  table.set("optimizer.lr=0.5");
  table.set("optimizer.schedule=wsd");
  const TrainConfig c = read_train_config(table);
  EXPECT_EQ(c.lr, 0.5);
  EXPECT_EQ(c.schedule, Schedule::Wsd);
  EXPECT_EQ(c.mxfp4_products, MxProducts::Fp8);
  table.set("train.step=5");
  try {
    read_train_config(table);
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("did you mean 'steps'"), std::string::npos) << e.what();
  }
}

TEST(Metrics, ATornLastLineIsDroppedAndADamagedOneRefused) {
  TemporaryDirectory folder;
  const fs::path file = folder.path() / "metrics.jsonl";
  std::ofstream(file) << "{\"step\":1,\"loss\":2}\n{\"step\":2,\"loss\":2}\n{\"step\":3,\"lo";
  MetricsLog(folder.path(), 9);
  EXPECT_EQ(read_file(file), "{\"step\":1,\"loss\":2}\n{\"step\":2,\"loss\":2}\n");
  MetricsLog(folder.path(), 1);
  EXPECT_EQ(read_file(file), "{\"step\":1,\"loss\":2}\n") << "nothing past the checkpoint is kept";
  std::ofstream(file) << "{\"step\":1,\"loss\":2}\nrubbish\n{\"step\":2,\"loss\":2}\n";
  EXPECT_THROW(MetricsLog(folder.path(), 9), UserError);
}

}  // namespace
}  // namespace nibble
