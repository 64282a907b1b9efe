#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "nibble/cli/arguments.h"
#include "nibble/data/dataset.h"
#include "nibble/data/tokenizer.h"
#include "nibble/model/hugging_face.h"
#include "nibble/numerics/philox.h"
#include "nibble/train/checkpoint.h"

namespace nibble {

namespace {

/// Draws from softmax(logits / temperature) over the `top_k` largest; temperature 0 takes the largest.
std::int32_t sample(const std::vector<float>& logits, double temperature, std::int64_t top_k, double uniform) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto keep = top_k > 0 ? std::min<std::size_t>(static_cast<std::size_t>(top_k), order.size()) : order.size();
  const auto by_logit = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(keep), order.end(), by_logit);
  if (temperature <= 0) return order[0];
  const double top = logits[static_cast<std::size_t>(order[0])];
  std::vector<double> cumulative;
  double sum = 0;
  for (std::size_t i = 0; i < keep; ++i) {
    sum += std::exp((static_cast<double>(logits[static_cast<std::size_t>(order[i])]) - top) / temperature);
    cumulative.push_back(sum);
  }
  const auto at = std::lower_bound(cumulative.begin(), cumulative.end(), uniform * sum);
  return order[std::min<std::size_t>(static_cast<std::size_t>(at - cumulative.begin()), keep - 1)];
}

class GenerateCommand final : public Command {
 public:
  std::string name() const override { return "generate"; }
  std::string summary() const override { return "sample text from a checkpoint"; }
  std::string examples() const override {
    return "  nibble generate --run runs/demo/wang2025-s1 --prompt 'The meaning of'\n"
           "  nibble generate --run runs/mine --prompt 'Once' --tokens 200 --temperature 0.7 --top-k 40 --seed 3";
  }
  void declare(Arguments& a) override {
    a.path("--run", run_, "run folder, or one checkpoint folder of it", true);
    a.text("--prompt", prompt_, "text to go on from");
    a.path("--tokenizer", tokenizer_, "SentencePiece model or tokenizer.json; by default the one of the run's data");
    a.integer("--tokens", tokens_, "tokens to sample");
    a.number("--temperature", temperature_, "0 takes the likeliest token");
    a.integer("--top-k", top_k_, "sample among the k likeliest tokens; 0 = all");
    a.integer("--seed", seed_, "seed of the sampling");
    a.text("--device", device_, "where the model computes: cpu, cuda or auto (the GPU where there is one)");
  }
  int run() override {
    const Device device = device_of(device_);
    const std::filesystem::path checkpoint = find_checkpoint(run_);
    const TrainState state = load_state(checkpoint);
    const TrainConfig config = read_train_config(ConfigTable::parse_text(state.config, checkpoint.string()));
    const Tokenizer tokenizer = Tokenizer::load(tokenizer_.empty() ? config.data : tokenizer_);
    const Recipe recipe = parse_recipe(state.recipe, checkpoint.string());
    Llama model(config.model, recipe, config.seed, DType::BF16, device);
    load_weights(checkpoint, model);
    load_recipe_state(checkpoint, state, model);
    model.prepare(0, false);

    std::vector<std::int32_t> ids = tokenizer.encode(prompt_);
    if (ids.empty()) ids.push_back(tokenizer.eos_id());
    fmt::print("{}", prompt_);
    std::string shown = tokenizer.decode(ids);
    const RandomStream random{static_cast<std::uint64_t>(seed_), 0, 0};
    for (std::int64_t i = 0; i < tokens_; ++i) {
      const auto window = static_cast<std::size_t>(config.model.seq);
      const std::vector<std::int32_t> context(ids.end() - static_cast<std::ptrdiff_t>(std::min(window, ids.size())),
                                              ids.end());
      const float uniform = uniform24(random.word(static_cast<std::uint64_t>(i)));
      const std::int32_t next = sample(model.next_token_logits(context), temperature_, top_k_, uniform);
      if (next == tokenizer.eos_id()) break;
      ids.push_back(next);
      // Pieces decode differently in context (blanks, bytes of one character): print what the whole text gained.
      const std::string text = tokenizer.decode(ids);
      if (text.size() > shown.size()) fmt::print("{}", text.substr(shown.size()));
      std::fflush(stdout);
      shown = text;
    }
    fmt::print("\n");
    return 0;
  }

 private:
  std::filesystem::path run_;
  std::string prompt_;
  std::filesystem::path tokenizer_;
  std::int64_t tokens_ = 128;
  double temperature_ = 0.8;
  std::int64_t top_k_ = 40;
  std::int64_t seed_ = 1;
  std::string device_ = "cpu";
};

}  // namespace

std::unique_ptr<Command> make_generate_command() { return std::make_unique<GenerateCommand>(); }

}  // namespace nibble
