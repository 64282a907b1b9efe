#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <set>
#include <string_view>

#include "nibble/cli/model_options.h"
#include "nibble/numerics/philox.h"

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

/// What `text` shows from byte `begin` on: up to the first of the stops, which is then found, and else less an end that
/// may become one.
std::size_t shown_until(std::string_view text, std::size_t begin, const std::vector<std::string>& stops, bool& found) {
  std::size_t end = text.size();
  std::size_t held = 0;
  for (const std::string& stop : stops) {
    end = std::min(end, text.find(stop, begin));
    for (std::size_t n = std::min(stop.size() - 1, text.size() - std::min(begin, text.size())); n > held; --n) {
      if (text.ends_with(std::string_view(stop).substr(0, n))) held = n;
    }
  }
  found = end < text.size();
  return found ? end : end - held;
}

class GenerateCommand final : public Command {
 public:
  std::string name() const override { return "generate"; }
  std::string summary() const override { return "sample text from a model"; }
  std::string examples() const override {
    return "  nibble generate --model runs/demo/wang2025-s1 --prompt 'The meaning of'\n"
           "  nibble generate --model runs/mine --prompt 'Once' --tokens 200 --temperature 0.7 --top-k 40 --seed 3\n"
           "  nibble generate --model smollm2-135m --prompt 'Once' --recipe nvfp4";
  }
  void declare(Arguments& a) override {
    model_options_.declare(a);
    model_options_.declare_bos(a);
    a.text("--prompt", prompt_, "text to go on from");
    a.text("--recipe", recipe_,
           "arithmetic of the linear layers, by recipe name or file; empty: as in its training, else bf16");
    a.integer("--tokens", tokens_, "tokens to sample at most");
    a.texts("--stop", stops_,
            "ends at this text too, which is not shown, or at the token of this spelling; repeatable");
    a.number("--temperature", temperature_, "0 takes the likeliest token");
    a.integer("--top-k", top_k_, "sample among the k likeliest tokens; 0 = all");
    a.integer("--seed", seed_, "seed of the sampling");
  }
  int run() override {
    const Device device = model_options_.device();
    const StoredModel stored = model_options_.open();
    const Tokenizer tokenizer = model_options_.tokenizer(stored);
    std::vector<std::int32_t> ids = encode_prompt(tokenizer, model_options_.bos(stored, tokenizer));
    const std::set<std::int32_t> ends = end_ids(stored, tokenizer);
    const std::unique_ptr<Llama> model = stored.load(recipe_of(stored), device);
    fmt::print("{}", prompt_);
    std::string text = tokenizer.decode(ids);
    const std::size_t prompt = text.size();
    std::size_t shown = prompt;
    const RandomStream random{static_cast<std::uint64_t>(seed_), 0, 0};
    bool stopped = false;
    for (std::int64_t i = 0; i < tokens_ && !stopped; ++i) {
      const auto window = static_cast<std::size_t>(stored.config().seq);
      const std::vector<std::int32_t> context(ids.end() - static_cast<std::ptrdiff_t>(std::min(window, ids.size())),
                                              ids.end());
      const float uniform = uniform24(random.word(static_cast<std::uint64_t>(i)));
      std::vector<float> logits = model->next_token_logits(context);
      logits.resize(static_cast<std::size_t>(tokenizer.vocab_size()));  // rows to spare have no token
      const std::int32_t next = sample(logits, temperature_, top_k_, uniform);
      if (ends.contains(next)) break;
      ids.push_back(next);
      // Pieces decode differently in context (blanks, bytes of one character): print what the whole text gained.
      text = tokenizer.decode(ids);
      const std::size_t until = shown_until(text, prompt, stops_, stopped);
      if (until > shown) fmt::print("{}", text.substr(shown, until - shown));
      std::fflush(stdout);
      shown = until;
    }
    fmt::print("{}\n", stopped || shown > text.size() ? "" : text.substr(shown));
    return 0;
  }

 private:
  std::vector<std::int32_t> encode_prompt(const Tokenizer& tokenizer, bool bos) const {
    std::vector<std::int32_t> ids = tokenizer.encode(prompt_);
    // A prompt in a chat's form brings its own.
    if (bos && (ids.empty() || ids[0] != tokenizer.bos_id())) ids.insert(ids.begin(), tokenizer.bos_id());
    if (ids.empty()) ids.push_back(tokenizer.eos_id());
    return ids;
  }

  std::set<std::int32_t> end_ids(const StoredModel& stored, const Tokenizer& tokenizer) const {
    std::set<std::int32_t> ids = stored.end_ids(tokenizer);
    for (const std::string& stop : stops_) {
      if (stop.empty()) user_error("--stop is empty");
      if (const std::int32_t id = tokenizer.find_piece(stop); id >= 0) ids.insert(id);
    }
    return ids;
  }

  Recipe recipe_of(const StoredModel& stored) const {
    if (!recipe_.empty()) return load_recipe(find_recipe(recipe_));
    std::optional<Recipe> trained = stored.recipe();
    return trained ? std::move(*trained) : unquantised_recipe(ElementFormat::BF16);
  }

  ModelOptions model_options_;
  std::string prompt_, recipe_;
  std::vector<std::string> stops_;
  std::int64_t tokens_ = 128;
  double temperature_ = 0.8;
  std::int64_t top_k_ = 40;
  std::int64_t seed_ = 1;
};

}  // namespace

std::unique_ptr<Command> make_generate_command() { return std::make_unique<GenerateCommand>(); }

}  // namespace nibble
