#include <algorithm>

#include "nibble/cli/model_options.h"
#include "nibble/inspect/page.h"
#include "nibble/inspect/text.h"

namespace nibble {

namespace {

constexpr std::int64_t kDefaultSequences = 2;
/// Tokens a sequence of a model that nibble did not train: a backward's memory grows with them.
constexpr std::int64_t kLongestDefault = 2048;

class InspectCommand final : public Command {
 public:
  std::string name() const override { return "inspect"; }
  std::string summary() const override { return "say how recipes treat a model's tensors on a text"; }
  std::string examples() const override {
    return "  nibble inspect --model runs/demo/bf16-s1 --recipe ./mine.toml --text book.txt\n"
           "  nibble inspect --model smollm2-135m --recipe nvfp4,quartet2 --text book.txt --seq 512\n"
           "  nibble inspect --model runs/mine --recipe bf16,./mine.toml --text book.txt --tokens 2048 --out inspected";
  }
  void declare(Arguments& a) override {
    model_options_.declare(a);
    a.list("--recipe", recipes_, "recipes by name or file, each from its first stage", true);
    a.path("--text", text_, "text file, as 'nibble data prepare' takes them", true);
    a.integer("--tokens", tokens_, "tokens of the text, rounded up to whole sequences; 0: two sequences");
    a.path("--out", out_, "folder for inspect.html and inspect.json; empty: no files");
  }
  int run() override {
    const Device device = model_options_.device();
    if (tokens_ < 0) user_error("--tokens is {}, must not be negative", tokens_);
    const std::vector<Recipe> recipes = load_recipes();
    StoredModel model = model_options_.open();
    if (!model.is_checkpoint() && !model_options_.has_seq())
      model.set_seq(std::min(model.config().seq, kLongestDefault));
    const Tokenizer tokenizer = model_options_.tokenizer(model);
    const std::int64_t seq = model.config().seq;
    const std::int64_t sequences = tokens_ == 0 ? kDefaultSequences : (tokens_ - 1) / seq + 1;
    const std::vector<std::int32_t> ids = inspection_tokens(text_, tokenizer, model.config(), sequences);
    const Inspection inspection = inspect_model(model, recipes, ids, device);
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

  ModelOptions model_options_;
  std::filesystem::path text_, out_;
  std::vector<std::string> recipes_;
  std::int64_t tokens_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_inspect_command() { return std::make_unique<InspectCommand>(); }

}  // namespace nibble
