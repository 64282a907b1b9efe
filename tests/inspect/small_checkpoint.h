// A checkpoint of a model that was never trained, small enough for a test and wide enough for every recipe.
#pragma once

#include <functional>

#include "nibble/inspect/inspection.h"
#include "nibble/train/checkpoint_writer.h"
#include "tests/train/small_run.h"

namespace nibble {

inline TrainConfig inspected_config(const std::filesystem::path& data, std::int64_t vocab, std::int64_t layers = 2) {
  return read_train_config(ConfigTable::parse_text(fmt::format(R"([model]
name = "inspected"
layers = {}
width = 128
heads = 2
ffn = 256
vocab = {}
seq = 64
[data]
dir = "{}"
[train]
steps = 10
batch = 2
micro_batch = 2
seed = 5
)",
                                                               layers, vocab, data.string()),
                                                   "inspected.toml"));
}

/// Saves the initial weights, after `change`, as step 7 of the run in `folder`; returns the checkpoint.
inline std::filesystem::path write_checkpoint(const std::filesystem::path& folder, const TrainConfig& config,
                                              const std::function<void(Llama&)>& change = {}) {
  const Recipe recipe = recipe_for_test("bf16");
  Llama model(config.model, recipe, config.seed);
  if (change) change(model);
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(config.optimizer, model);
  TrainState state;
  state.step = 7;
  state.config = to_toml(config);
  state.recipe = recipe.text;
  save_checkpoint(folder, state, model, *optimizer, 1);
  return newest_checkpoint(folder).value();
}

inline std::vector<std::int32_t> random_ids(const LlamaConfig& model, std::int64_t sequences) {
  std::mt19937 random(11);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i <= sequences * model.seq; ++i) {
    ids.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(model.vocab)));
  }
  return ids;
}

}  // namespace nibble
