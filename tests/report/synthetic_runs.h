// Run directories for the tests of logs and reports.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/temporary_directory.h"

namespace nibble {

/// What the UserError of a call says.
inline std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline nlohmann::json operand_json(nlohmann::json snr_db, double clamped = 0) {
  return {{"snr_db", std::move(snr_db)}, {"cosine", 0.99},  {"relative_mse", 0.01}, {"underflow", 0.05},
          {"clamped", clamped},          {"clipped", 0.01}, {"bias", -0.003}};
}

inline nlohmann::json products_json(double cosine) {
  nlohmann::json product = {{"cosine", cosine}, {"magnitude", 1.01}, {"noise", 0.2}};
  return {{"fprop", product}, {"dgrad", product}, {"wgrad", product}};
}

struct SyntheticRun {
  std::string name;
  std::string recipe;
  int seed = 1;
  int steps = 100;
  std::function<double(int)> loss = [](int step) { return 3 + 5.0 / step; };
  std::function<double(int)> validation = [](int step) { return 3.1 + 5.0 / step; };
  int validate_every = 20;  ///< 0: never
  bool quality = true;
  int second_stage_from = 0;          ///< first step of the recipe's second stage; 0: it has one stage
  std::vector<std::string> alarms{};  ///< in the last step
  int dim = 64;
};

/// Writes run.json and metrics.jsonl as a trainer does.
inline void write_run(const std::filesystem::path& directory, const SyntheticRun& run) {
  const nlohmann::json info = {{"name", run.name},
                               {"recipe", run.recipe},
                               {"recipe_text", "name = \"" + run.recipe + "\"\n"},
                               {"recipe_table", {{{"operand", "fprop.x"}, {"spec", "E2M1 per token"}}}},
                               {"seed", run.seed},
                               {"parameters", 8123456},
                               {"model", {{"dim", run.dim}, {"rope", {{"theta", 10000.0}}}}},
                               {"train", {{"steps", run.steps}, {"seed", run.seed}}},
                               {"data", {{"path", "data/prose"}}},
                               {"machine", {{"cpu", "a cpu"}, {"threads", 2}}},
                               {"paths", {{"fprop", "int8 exact"}, {"dgrad", "bf16"}}},
                               {"nibble", {{"version", "0.1.0"}}},
                               {"started", "2026-01-02 03:04"}};
  write_text(directory / "run.json", info.dump());
  std::string lines;
  for (int step = 1; step <= run.steps; ++step) {
    nlohmann::json line = {{"step", step}, {"tokens", step * 1000},   {"loss", run.loss(step)},
                           {"lr", 1e-3},   {"grad_norm", 1.0 / step}, {"tokens_per_second", 500.0}};
    if (run.validate_every > 0 && step % run.validate_every == 0) line["val_loss"] = run.validation(step);
    if (run.quality && step % 50 == 0) {
      const nlohmann::json operands = {{"fprop.x", operand_json(18.5, 0.02)}, {"fprop.w", operand_json(nullptr)}};
      line["quality"] = operands;
      line["products"] = products_json(0.97);
      line["oscillation"] = 1.25;
      line["gradient_to_noise"] = 5.0 - 4.0 * step / run.steps;
      nlohmann::json layer = operands;
      layer["products"] = products_json(0.96);
      layer["oscillation"] = 1.5;
      line["layers"] = {{"layers.0.attention.qkv", layer}, {"layers.0.mlp.down", layer}};
    }
    if (run.second_stage_from > 0) line["stage"] = step < run.second_stage_from ? 1 : 2;
    if (step == run.steps && !run.alarms.empty()) line["alarms"] = run.alarms;
    lines += line.dump() + "\n";
  }
  write_text(directory / "metrics.jsonl", lines);
}

}  // namespace nibble
