// A data set, a configuration and a run small enough for a test.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>

#include "nibble/data/dataset.h"
#include "nibble/io/file.h"
#include "nibble/io/json.h"
#include "nibble/io/safetensors_parts.h"
#include "nibble/train/checkpoint.h"
#include "nibble/train/trainer.h"
#include "tests/temporary_directory.h"

namespace nibble {

inline constexpr std::int64_t kSmallVocab = 64;

/// Tokens in which the next one mostly follows from the last, so that a few steps of training show.
inline void write_split(const std::filesystem::path& file, std::int64_t tokens, std::uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<std::int32_t> ids;
  std::int32_t now = 3;
  for (std::int64_t i = 0; i < tokens; ++i) {
    ids.push_back(now);
    now = rng() % 8 == 0 ? static_cast<std::int32_t>(rng() % kSmallVocab)
                         : static_cast<std::int32_t>((now * 5 + 7) % kSmallVocab);
  }
  ShardWriter writer(file, kSmallVocab, 1);
  writer.append(ids);
  writer.commit();
}

inline std::filesystem::path write_small_data(const std::filesystem::path& folder) {
  const std::filesystem::path data = folder / "data";
  make_directories(data);
  write_split(data / "train-00000.bin", 4000, 1);
  write_split(data / "valid.bin", 300, 2);
  DatasetMeta meta;
  meta.vocab_size = kSmallVocab;
  meta.tokenizer_hash = 1;
  meta.train = {4000, 1, 4000, {"train-00000.bin"}};
  meta.valid = {300, 1, 300, {"valid.bin"}};
  write_dataset_meta(data, meta);
  return data;
}

inline std::string small_config_text(const std::filesystem::path& data, int steps) {
  return fmt::format(R"([model]
name = "small"
layers = 2
width = 32
heads = 2
ffn = 48
vocab = {}
seq = 16
[data]
dir = "{}"
[train]
steps = {}
batch = 4
micro_batch = 2
seed = 3
[optimizer]
lr = 0.01
[log]
validate_every = 5
quality_every = 4
checkpoint_every = 3
)",
                     kSmallVocab, data.string(), steps);
}

inline TrainConfig small_config(const std::filesystem::path& data, int steps) {
  return read_train_config(ConfigTable::parse_text(small_config_text(data, steps), "small.toml"));
}

/// A shipped recipe, or one under tests/ by its path in the source tree.
inline Recipe recipe_for_test(const std::string& name) {
  const std::string root = NIBBLE_SOURCE_DIR;
  return load_recipe(name.find('/') == std::string::npos ? root + "/recipes/" + name + ".toml" : root + "/" + name);
}

inline const std::atomic<bool> kNeverStop{false};

/// Trains (or goes on) up to the step, where a stop is asked for.
inline bool train_until(std::int64_t step, const TrainConfig& config, const Recipe& recipe,
                        const std::filesystem::path& run) {
  std::atomic<bool> stop{false};
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& r) {
    if (r.step >= step) stop = true;
  };
  return train(config, recipe, run, Resume::IfPresent, stop, callbacks);
}

/// metrics.jsonl without the figures that depend on the clock.
inline std::string metrics_without_rates(const std::filesystem::path& run) {
  std::istringstream in(read_file(run / "metrics.jsonl"));
  std::string text;
  for (std::string line; std::getline(in, line);) {
    nlohmann::json json = nlohmann::json::parse(line);
    json.erase("tokens_per_second");
    for (const char* of_ranks : {"rank_seconds", "gathered_bytes", "gathered_of_bf16"}) json.erase(of_ranks);
    text += json.dump() + "\n";
  }
  return text;
}

/// All tensors of a checkpoint, whoever wrote which rows of them, and its state but for what ranks shared: what, by
/// name, to its bytes.
inline std::map<std::string, std::string> contents_of_checkpoint(const std::filesystem::path& checkpoint) {
  std::map<std::string, std::string> contents;
  for (const std::string stem : {"model", "optimizer", "recipe"}) {
    if (!SafetensorsParts::exist(checkpoint, stem)) continue;
    const SafetensorsParts parts(checkpoint, stem);
    for (const std::string& name : parts.names()) {
      std::string& bytes = contents[stem + "/" + name];
      bytes = fmt::format("{} {}: ", parts.dtype(name), nlohmann::json(parts.shape(name)).dump());
      for (const auto piece : parts.pieces(name)) {
        bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      }
    }
  }
  nlohmann::json state = read_json(checkpoint / kStateFile);
  for (const char* key : {"format", "ranks", "checksums"}) state.erase(key);
  std::string config = state["config"];
  for (const char* key : {"\nzero = ", "\ngather = ", "\nrecompute = "}) {  // which change no bit
    if (const std::size_t at = config.find(key); at != std::string::npos) {
      config.erase(at, config.find('\n', at + 1) - at);
    }
  }
  state["config"] = config;
  contents["state"] = state.dump();
  return contents;
}

/// The same metrics, and the same newest checkpoint to the bit.
inline void expect_same_run(const std::filesystem::path& a, const std::filesystem::path& b) {
  EXPECT_EQ(metrics_without_rates(a), metrics_without_rates(b));
  const auto contents_a = contents_of_checkpoint(newest_checkpoint(a).value());
  const auto contents_b = contents_of_checkpoint(newest_checkpoint(b).value());
  ASSERT_EQ(contents_a.size(), contents_b.size());
  for (const auto& [name, bytes] : contents_a) {
    ASSERT_TRUE(contents_b.contains(name)) << name;
    EXPECT_TRUE(bytes == contents_b.at(name)) << name << " differs";
  }
  EXPECT_GT(contents_a.size(), 10u);
}

}  // namespace nibble
