// The settings of a training run, [model] included; what checkpoints keep of them must say the same.
#include "fuzz/harness/target.h"
#include "nibble/train/config.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  const TrainConfig config = read_train_config(ConfigTable::parse_text(bytes, "input.toml"));
  const std::string text = to_toml(config);
  const TrainConfig again = must_succeed([&] { return read_train_config(ConfigTable::parse_text(text, "kept.toml")); });
  check(to_toml(again) == text, "settings come back as they were written");
  for (const std::int64_t step : {std::int64_t{1}, config.steps / 2 + 1, config.steps}) learning_rate(config, step);
}

}  // namespace nibble::fuzz
