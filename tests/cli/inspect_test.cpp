// `nibble inspect` as a user meets it.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/cli/program.h"
#include "tests/data/english.h"
#include "tests/inspect/small_checkpoint.h"

namespace nibble {
namespace {

TEST(InspectCommand, PrintsTablesAndWritesThePageAndJson) {
  const TemporaryDirectory folder;
  const auto data = folder.path() / "data";
  make_directories(data);
  small_tokenizer().save_in(data);
  const auto checkpoint =
      write_checkpoint(folder.path() / "run", inspected_config(data, small_tokenizer().vocab_size(), 1));
  const std::string text = folder.write("text.txt", joined(english_documents(6)));
  const std::string rest = " --recipe fp4-direct,bf16 --text " + text + " --tokens 65 --out ";

  const Output first =
      run("inspect --model " + (folder.path() / "run").string() + rest + (folder.path() / "a").string());
  ASSERT_EQ(first.code, 0) << first.text;
  for (const char* part : {"step 7), 2 sequences of 64 tokens", "fp4-direct hurts layers.0.", "bf16 hurts no layer",
                           "Relative error of fprop / dgrad / wgrad", "exact / exact / exact", "top channels of X"}) {
    EXPECT_NE(first.text.find(part), std::string::npos) << part << "\n" << first.text;
  }
  const std::string json = read_file(folder.path() / "a" / "inspect.json");
  EXPECT_EQ(nlohmann::json::parse(json)["recipes"].size(), 2u);
  EXPECT_TRUE(read_file(folder.path() / "a" / "inspect.html").starts_with("<!DOCTYPE html>"));

  const Output second =
      run("inspect --model " + checkpoint.string() + " --device cpu" + rest + (folder.path() / "b").string());
  ASSERT_EQ(second.code, 0) << second.text;
  EXPECT_TRUE(read_file(folder.path() / "b" / "inspect.json") == json);
}

TEST(InspectCommand, MistakesGetOneSentenceAndExitCode2) {
  const TemporaryDirectory folder;
  const auto checkpoint = write_checkpoint(folder.path() / "run", inspected_config(folder.path() / "data", 64, 1));
  const std::string model = folder.path().string() + "/tokenizer.model";
  small_tokenizer().save(model);
  const std::string text = folder.write("text.txt", "A few words.\n");
  const std::string known = checkpoint.string() + " --text " + text;
  const auto other =
      write_checkpoint(folder.path() / "other", inspected_config("data", small_tokenizer().vocab_size(), 1));
  const std::pair<std::string, const char*> mistakes[] = {
      {known + " --recipe bf16", "there is no tokenizer at"},
      {known + " --recipe bf16 --tokenizer " + model, "the model a vocabulary of 64"},
      {known + " --recipe bf17", "bf17"},
      {known + " --recipe bf16,bf16", "listed twice"},
      {known + " --recipe bf16 --tokens -1", "--tokens"},
      {known + " --recipe bf16 --device gpu", "must be cpu, cuda or auto"},
      {known, "--recipe"},
      {other.string() + " --recipe bf16 --text " + text + " --tokenizer " + model, "is too short"},
      {other.string() + " --recipe bf16 --text nowhere.txt --tokenizer " + model, "nowhere.txt"},
      {folder.path().string() + "/data --recipe bf16 --text " + text, "holds no model"}};
  for (const auto& [arguments, expected] : mistakes) expect_mistake("inspect --model " + arguments, expected);
}

}  // namespace
}  // namespace nibble
