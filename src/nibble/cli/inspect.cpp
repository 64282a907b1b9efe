#include <algorithm>

#include "nibble/cli/arguments.h"
#include "nibble/data/dataset.h"
#include "nibble/inspect/page.h"
#include "nibble/inspect/text.h"
#include "nibble/train/checkpoint.h"

namespace nibble {

namespace {

constexpr std::int64_t kDefaultSequences = 2;

class InspectCommand final : public Command {
 public:
  std::string name() const override { return "inspect"; }
  std::string summary() const override { return "say how recipes treat a checkpoint's tensors on a text"; }
  std::string examples() const override {
    return "  nibble inspect runs/demo/bf16-s1 --recipe ./mine.toml --text book.txt\n"
           "  nibble inspect runs/mine --recipe bf16,./mine.toml,./other.toml --text book.txt --tokens 2048 --out "
           "inspected";
  }
  void declare(Arguments& a) override {
    a.path("checkpoint", checkpoint_, "run folder, or one checkpoint folder of it", true);
    a.list("--recipe", recipes_, "recipes by name or file, each from its first stage", true);
    a.path("--text", text_, "text file, as 'nibble data prepare' takes them", true);
    a.integer("--tokens", tokens_, "tokens of the text, rounded up to whole sequences; 0: two sequences");
    a.path("--tokenizer", tokenizer_, "SentencePiece model or tokenizer.json; by default the one of the run's data");
    a.text("--device", device_, "where the passes compute: cpu, cuda or auto (the GPU where there is one)");
    a.path("--out", out_, "folder for inspect.html and inspect.json; empty: no files");
  }
  int run() override {
    const Device device = device_of(device_);
    if (tokens_ < 0) user_error("--tokens is {}, must not be negative", tokens_);
    const std::vector<Recipe> recipes = load_recipes();
    const std::filesystem::path checkpoint = find_checkpoint(checkpoint_);
    const TrainState state = load_state(checkpoint);
    const TrainConfig config = read_train_config(ConfigTable::parse_text(state.config, checkpoint.string()));
    const std::filesystem::path place = tokenizer_.empty() ? config.data : tokenizer_;
    if (!std::filesystem::exists(place)) {
      user_error("there is no tokenizer at '{}': give the model's with --tokenizer", place.string());
    }
    const Tokenizer tokenizer = Tokenizer::load(place);
    const std::int64_t seq = config.model.seq;
    const std::int64_t sequences = tokens_ == 0 ? kDefaultSequences : (tokens_ - 1) / seq + 1;
    const std::vector<std::int32_t> ids = inspection_tokens(text_, tokenizer, config.model, sequences);
    const Inspection inspection = inspect_checkpoint(checkpoint, recipes, ids, device);
    fmt::print("{}", inspection_text(inspection));
    if (!out_.empty()) {
      write_inspection(inspection, out_);
      fmt::print("\nwrote {} and inspect.json beside it\n", (out_ / "inspect.html").string());
    }
    return 0;
  }

 private:
  std::vector<Recipe> load_recipes() const {
    std::vector<Recipe> recipes;
    for (const std::string& name : recipes_) {
      recipes.push_back(load_recipe(find_recipe(name)));
      const std::string& added = recipes.back().name;
      if (std::any_of(recipes.begin(), recipes.end() - 1, [&](const Recipe& r) { return r.name == added; })) {
        user_error("the recipe '{}' is listed twice: give each recipe file a name of its own", added);
      }
    }
    return recipes;
  }

  std::filesystem::path checkpoint_, text_, tokenizer_, out_;
  std::vector<std::string> recipes_;
  std::string device_ = "cpu";
  std::int64_t tokens_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_inspect_command() { return std::make_unique<InspectCommand>(); }

}  // namespace nibble
