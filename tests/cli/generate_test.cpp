// `nibble generate` as a user meets it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "nibble/train/import.h"
#include "tests/cli/program.h"
#include "tests/data/english.h"
#include "tests/inspect/small_checkpoint.h"

namespace nibble {
namespace {

class GenerateCommand : public testing::Test {
 protected:
  GenerateCommand() {
    make_directories(folder_ / "data");
    small_tokenizer().save_in(folder_ / "data");
    // Twelve rows of the embedding have no token.
    write_checkpoint(folder_ / "run", inspected_config(folder_ / "data", small_tokenizer().vocab_size() + 12, 1));
    export_checkpoint(folder_ / "run", {.tokenizer = folder_ / "data"}, folder_ / "hf");
  }
  std::string generated(const std::string& model, const std::string& options) const {
    const Output out = run("generate --prompt 'The meaning of' --tokens 40 --top-k 0 --temperature 2 --model " +
                           (folder_ / model).string() + options);
    EXPECT_EQ(out.code, 0) << out.text;
    EXPECT_TRUE(out.text.starts_with("The meaning of")) << out.text;
    return out.text;
  }
  TemporaryDirectory folder_;
};

TEST_F(GenerateCommand, AModelSaysTheSameInEveryForm) {
  const std::string text = generated("run", "");
  EXPECT_GT(text.size(), 40u);
  EXPECT_EQ(generated("hf", ""), text);
  EXPECT_EQ(generated("hf", " --recipe bf16 --tokenizer " + (folder_ / "data").string()), text);
  EXPECT_NE(generated("hf", " --recipe fp4-direct"), text);
  EXPECT_NE(generated("hf", " --seq 2"), text);
  EXPECT_NE(generated("run", " --seed 2"), text);
}

TEST_F(GenerateCommand, TextsBeginAsTheTokenizerOfAForeignModelSays) {
  const std::string without = generated("hf", "");
  const std::string with = generated("run", " --bos yes");
  EXPECT_NE(with, without);
  folder_.write("hf/tokenizer_config.json", R"({"add_bos_token": true})");
  EXPECT_EQ(generated("hf", ""), with);
  EXPECT_EQ(generated("hf", " --bos no"), without);
}

TEST_F(GenerateCommand, EndsAtATextThatIsAskedForAndDoesNotShowIt) {
  const std::string text = generated("run", "");
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  std::size_t at = text.size() / 2;  // three letters in a row, behind the prompt
  while (!letter(text[at]) || !letter(text[at + 1]) || !letter(text[at + 2])) ASSERT_LT(++at + 3, text.size()) << text;
  const std::string stop = text.substr(at, 3);
  const std::string until = text.substr(0, text.find(stop, std::string_view("The meaning of").size())) + "\n";
  EXPECT_EQ(generated("run", " --stop " + stop), until);
  EXPECT_EQ(generated("run", " --stop neverthere --stop " + stop), until);
  EXPECT_EQ(generated("run", " --stop neverthere"), text);
  // What might have become the stop is shown when it did not.
  EXPECT_EQ(generated("run", " --stop " + text.substr(at, 2) + "neverthere"), text);
}

TEST_F(GenerateCommand, EndsAtEveryTokenThatTheModelsFilesName) {
  const std::string text = generated("hf", "");
  nlohmann::json all = nlohmann::json::array({-1});
  for (std::int32_t id = 0; id < small_tokenizer().vocab_size(); ++id) all.push_back(id);
  folder_.write("hf/generation_config.json", nlohmann::json{{"eos_token_id", all}}.dump());
  EXPECT_EQ(generated("hf", ""), "The meaning of\n");
  folder_.write("hf/generation_config.json", R"({"eos_token_id": 100000})");
  EXPECT_EQ(generated("hf", ""), text);
}

TEST_F(GenerateCommand, MistakesGetOneSentenceAndExitCode2) {
  const std::string known = "generate --model " + (folder_ / "hf").string();
  expect_mistake(known + " --bos never", "must be yes, no or auto");
  expect_mistake(known + " --seq 65", "takes 1 to 64");
  expect_mistake(known + " --tokenizer nowhere.model", "there is no tokenizer at");
  expect_mistake(known + " --recipe bf17", "bf17");
  expect_mistake(known + " --stop ''", "--stop is empty");
  folder_.write("hf/generation_config.json", R"({"eos_token_id": ["</s>"]})");
  expect_mistake(known, R"(generation_config.json': eos_token_id is ["</s>"], must be)");
  expect_mistake("generate --model " + (folder_ / "data").string(), "holds no model");
}

}  // namespace
}  // namespace nibble
