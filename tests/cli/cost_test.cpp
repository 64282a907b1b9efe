// `nibble cost` and `nibble league` as a user meets them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

nlohmann::json cost(const std::string& arguments) {
  const Output out = run("cost " + arguments + " --json");
  EXPECT_EQ(out.code, 0) << out.text;
  return nlohmann::json::parse(out.text);
}

TEST(CostCommand, AnswersEveryQuestionInText) {
  const Output out =
      run("cost --model llama-1.3b --recipe wang2025 --device h100-sxm --tokens 100B --eff-n 0.7 --eff-d 0.9");
  EXPECT_EQ(out.code, 0);
  for (const char* part :
       {"attention.qkv", "optimizer", "twelve products", "working copies of the weights", "tokens/s predicted", "USD",
        "printed formula", "Zhou", "four-bit codes are exact in E4M3", "effN 0.7", "worth it"}) {
    EXPECT_NE(out.text.find(part), std::string::npos) << part << "\n" << out.text;
  }
}

TEST(CostCommand, JsonHasThePublishedFiguresAtThePapersShape) {
  // A width of 4096 and sequences of 2048, as in the paper.
  const nlohmann::json json = cost("--model llama2-7b --recipe wang2025 --device b200 --seq 2048");
  EXPECT_NEAR(json["wang_accounting"]["ideal"].get<double>(), 3.1155, 5e-5);
  EXPECT_NEAR(json["wang_accounting"]["printed_formula"].get<double>(), 3.027, 5e-4);
  EXPECT_NEAR(json["wang_accounting"]["printed_figure"].get<double>(), 2.9465, 5e-5);
  EXPECT_EQ(json["layer"].size(), 12u);
  double parts = 0;
  for (const auto& part : json["step"]["parts"]) parts += part["seconds"].get<double>();
  EXPECT_NEAR(parts / json["step"]["seconds"].get<double>(), 1, 1e-9);
}

TEST(CostCommand, TheBf16RecipeIsItsOwnMeasure) {
  for (const char* device : {"h100-sxm", "h200", "b200", "b300", "rtx-5090", "rtx-pro-6000", "cpu"}) {
    const nlohmann::json json = cost(std::string("--model quartet-30m --recipe bf16 --device ") + device);
    EXPECT_EQ(json["speedup_over_bf16"], 1.0) << device;
    EXPECT_EQ(json["theoretical_cost"], 1.0) << device;
  }
}

TEST(CostCommand, TheRunsPriceIsProportionalToTokensAndPrice) {
  const std::string question = "--model quartet-100m --recipe fp4-direct --device h100-sxm ";
  const nlohmann::json a = cost(question + "--tokens 1B --price 2");
  const nlohmann::json b = cost(question + "--tokens 3B --price 4 --devices 8");
  EXPECT_NEAR(b["run"]["usd"].get<double>() / a["run"]["usd"].get<double>(), 6, 1e-9);
  EXPECT_NEAR(b["run"]["seconds"].get<double>() / a["run"]["seconds"].get<double>(), 3.0 / 8, 1e-9);
}

TEST(CostCommand, SaysWhichRunsFitByRecipeOptimizerAndRecomputation) {
  const Output out =
      run("cost --model llama-1.3b --recipe bf16,wang2025 --device h100-sxm --micro-batch 8 --batch 8 --memory");
  EXPECT_EQ(out.code, 0) << out.text;
  for (const char* part : {"bf16", "wang2025", "adamw-fp8", "recompute block-parts", "GiB"}) {
    EXPECT_NE(out.text.find(part), std::string::npos) << part << "\n" << out.text;
  }
  const std::string question = "--model llama-1.3b --recipe bf16 --device h100-sxm ";
  EXPECT_LT(cost(question + "--recompute block")["memory"]["total"].get<double>(),
            0.6 * cost(question + "--recompute none")["memory"]["total"].get<double>());
  EXPECT_EQ(run("cost " + question + "--recompute much").code, 2);
}

TEST(CostCommand, SaysWhatARankSendsAndKeeps) {
  const std::string question = "--model llama-1.3b --recipe nvfp4 --device h100-sxm ";
  const Output out = run("cost " + question + "--gpus 8 --nodes 2 --zero 3 --gradients bf16");
  EXPECT_EQ(out.code, 0) << out.text;
  for (const char* part : {"memory of a rank", "exchange buffers", "communication of 16 GPUs in 2 nodes, ZeRO-3",
                           "gradients, bf16", "weights for the passes", "are saved", "exposed", "400 Gbit/s"}) {
    EXPECT_NE(out.text.find(part), std::string::npos) << part << "\n" << out.text;
  }
  const nlohmann::json json = cost(question + "--gpus 8 --nodes 2 --zero 1 --gradients fp8");
  const nlohmann::json& p = json["parallel"];
  EXPECT_EQ(p["ranks"], 16);
  EXPECT_EQ(p["zero"], 1);
  EXPECT_EQ(p["gradients"], "fp8");
  EXPECT_EQ(json["run"]["devices"], 16.0);
  double sum = 0;
  for (const char* kind : {"gradients", "amax", "parameters", "weights"}) {
    for (const char* link : {"node", "network", "total"}) {
      EXPECT_TRUE(p["bytes_sent"][kind][link].is_number()) << kind << " " << link;
    }
    sum += p["bytes_sent"][kind]["total"].get<double>();
  }
  EXPECT_NEAR(p["bytes_sent"]["sum"]["total"].get<double>() / sum, 1, 1e-12);
  for (const char* key : {"communication_seconds", "exposed_seconds", "step_seconds", "bf16_weight_bytes"}) {
    EXPECT_TRUE(p[key].is_number()) << key;
  }
  EXPECT_EQ(p["network_link"]["bytes_per_second"], 50e9);
  EXPECT_TRUE(json["device"]["sources"].contains("links"));
}

TEST(CostCommand, SaysNothingOfRanksWhereThereIsOne) {
  const std::string question = "--model quartet-30m --recipe nvfp4 --device h100-sxm ";
  const nlohmann::json plain = cost(question);
  EXPECT_FALSE(plain.contains("parallel"));
  EXPECT_EQ(plain, cost(question + "--gpus 1 --nodes 1 --zero 3"));
}

TEST(CostCommand, LinksAreParameters) {
  const std::string question = "--model llama-1.3b --recipe bf16 --device h100-sxm --batch 8 --gpus 8 --nodes 4 ";
  const nlohmann::json usual = cost(question);
  const nlohmann::json slow = cost(question + "--network 10 --node-link 20");
  EXPECT_EQ(slow["parallel"]["network_link"]["bytes_per_second"], 1.25e9);
  EXPECT_EQ(slow["parallel"]["node_link"]["bytes_per_second"], 20e9);
  EXPECT_GT(slow["parallel"]["exposed_seconds"], usual["parallel"]["exposed_seconds"]);
  EXPECT_EQ(slow["parallel"]["bytes_sent"], usual["parallel"]["bytes_sent"]);
}

TEST(CostCommand, DrawsScalingCurves) {
  const std::string question = "--model llama-1.3b --recipe wang2025 --device h100-sxm --zero 1 --gradients bf16 ";
  const nlohmann::json weak = cost(question + "--scaling weak");
  ASSERT_EQ(weak["rows"].size(), 15u);
  EXPECT_EQ(weak["scaling"], "weak");
  EXPECT_TRUE(weak["ended"].is_null());
  EXPECT_EQ(weak["rows"][14]["ranks"], 16384);
  EXPECT_EQ(weak["rows"][14]["nodes"], 2048);
  for (const auto& row : weak["rows"]) {
    for (const char* key : {"ranks", "gpus", "nodes", "sequences", "tokens_per_second", "efficiency", "exposed_seconds",
                            "communication_seconds", "step_seconds", "memory_bytes"}) {
      EXPECT_TRUE(row[key].is_number()) << key;
    }
  }
  EXPECT_EQ(weak["rows"][0]["bytes_sent"]["sum"]["total"], 0);
  // One GPU is the plain question.
  EXPECT_EQ(weak["rows"][0]["tokens_per_second"],
            cost("--model llama-1.3b --recipe wang2025 --device h100-sxm --gradients bf16")["tokens_per_second"]);
  const nlohmann::json strong = cost(question + "--scaling strong --batch 64 --micro-batch 4");
  ASSERT_EQ(strong["rows"].size(), 5u);
  EXPECT_EQ(strong["rows"][4]["sequences"], 4);
  EXPECT_NE(strong["ended"].get<std::string>().find("fewer than 32 GPUs"), std::string::npos);
  const Output text = run("cost " + question + "--scaling strong --nodes 2");
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.text.find("efficiency %"), std::string::npos) << text.text;
}

TEST(CostCommand, MistakesGetOneSentenceAndExitCode2) {
  const std::pair<const char*, const char*> mistakes[] = {
      {"cost --model llama2-7b --recipe bf16 --device b2000", "did you mean 'b200'"},
      {"cost --model llama3 --recipe bf16 --device b200", "model"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --tokens many", "--tokens"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --batch 3 --micro-batch 2", "does not divide"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --optimizer sgd", "must be adamw, adamw-fp8 or fp8-lm"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --devices 0", "--devices"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --gpus 8 --zero 4", "--zero is 4"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --gpus 8 --gradients fp4", "must be f32, bf16 or fp8"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --gradients fp8", "between GPUs"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --gpus 8 --devices 8", "--devices"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --gpus -8", "--gpus"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --scaling up", "must be weak or strong"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --scaling weak --gpus 6", "powers of two"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --scaling weak --nodes 3", "powers of two"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --scaling weak --memory", "two tables"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --scaling strong --nodes 4 --batch 64 --micro-batch 4",
       "16 micro-batches of 4, fewer than 32 GPUs"},
      {"cost --model llama2-7b --recipe bf16 --device b200 --scaling strong --nodes 1 --batch 48 --micro-batch 4",
       "does not divide by 8 GPUs"},
      {"cost --model quartet-30m --recipe bf16 --device cpu --gpus 2", "[links]"},
      {"league", "--compare"},
      {"league --recipes bf16", "--config"},
      {"league --compare docs", "holds neither compare.json nor completed runs"}};
  for (const auto& [arguments, expected] : mistakes) expect_mistake(arguments, expected);
}

TEST(LeagueCommand, RanksAComparisonWithTheoreticalCosts) {
  TemporaryDirectory folder;
  const std::filesystem::path source = folder.path() / "compare";
  std::filesystem::create_directories(source);
  nlohmann::json runs = nlohmann::json::array();
  for (const auto& [recipe, loss] : {std::pair{"bf16", 3.0}, {"fp4-direct", 3.06}, {"wang2025", 3.03}}) {
    for (int seed = 1; seed <= 2; ++seed) {
      runs.push_back(
          {{"name", recipe}, {"dir", "gone"}, {"recipe", recipe}, {"seed", seed}, {"val_loss", loss + 0.01 * seed}});
    }
  }
  const std::string config =
      "[model]\nname = \"m\"\nlayers = 4\nwidth = 512\nheads = 8\nkv_heads = 8\nffn = 1536\nvocab = 512\nseq = 128\n"
      "[data]\ndir = \"d\"\n[train]\nsteps = 10\nbatch = 2\n";
  std::ofstream(source / "compare.json") << nlohmann::json(
      {{"baseline", "bf16"}, {"runs", runs}, {"config_text", config}});
  const std::filesystem::path out = folder.path() / "league";
  const Output league = run("league --compare " + source.string() + " --out " + out.string());
  EXPECT_EQ(league.code, 0) << league.text;
  EXPECT_NE(league.text.find("wang2025 is closest to bf16"), std::string::npos) << league.text;
  for (const char* file : {"league.md", "league.json", "league.svg", "league.html"}) {
    EXPECT_TRUE(std::filesystem::exists(out / file)) << file;
  }
  const nlohmann::json json = nlohmann::json::parse(std::ifstream(out / "league.json"));
  const auto& entries = json["sizes"][0]["entries"];
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0]["relative_cost"], 1.0);
  // The clamp's residual costs something on top of the same formats.
  EXPECT_GT(entries[1]["relative_cost"].get<double>(), entries[2]["relative_cost"].get<double>());
  EXPECT_LT(entries[1]["relative_cost"].get<double>(), 1);
}

TEST(LeagueCommand, RunsTheComparisonFirstAndResumesIt) {
  TemporaryDirectory folder;
  const std::filesystem::path config = folder.path() / "c.toml";
  std::ofstream(config) << small_config_text(write_small_data(folder.path()), 2);
  const std::filesystem::path out = folder.path() / "league";
  const std::string command =
      "league --config " + config.string() + " --recipes bf16,fp4-direct --seeds 2 --out " + out.string();
  const Output first = run(command);
  ASSERT_EQ(first.code, 0) << first.text;
  const nlohmann::json json = nlohmann::json::parse(std::ifstream(out / "league.json"));
  ASSERT_EQ(json["sizes"][0]["entries"].size(), 2u);
  for (const auto& entry : json["sizes"][0]["entries"]) EXPECT_EQ(entry["seeds"].size(), 2u);
  const auto trained = std::filesystem::last_write_time(out / "compare" / "bf16-s3" / "metrics.jsonl");
  const Output again = run(command);
  EXPECT_EQ(again.code, 0) << again.text;
  EXPECT_EQ(std::filesystem::last_write_time(out / "compare" / "bf16-s3" / "metrics.jsonl"), trained);
  EXPECT_EQ(nlohmann::json::parse(std::ifstream(out / "league.json")), json);
}

}  // namespace
}  // namespace nibble
