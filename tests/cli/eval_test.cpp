// `nibble eval` as a user meets it.
#include <gtest/gtest.h>

#include <cstdio>

#include "nibble/train/import.h"
#include "tests/cli/program.h"
#include "tests/data/english.h"
#include "tests/inspect/small_checkpoint.h"

namespace nibble {
namespace {

class EvalCommand : public testing::Test {
 protected:
  EvalCommand() {
    make_directories(folder_ / "data");
    small_tokenizer().save(folder_ / "data" / "tokenizer.model");
    write_checkpoint(folder_ / "run", inspected_config(folder_ / "data", small_tokenizer().vocab_size(), 1));
    std::string piqa;
    std::string lambada;
    for (const std::string& text : english_documents(8)) {
      piqa +=
          nlohmann::json({{"goal", text.substr(0, 30)}, {"sol1", "swim"}, {"sol2", "walk home"}, {"label", 1}}).dump() +
          "\n";
      lambada += nlohmann::json({{"text", text.substr(0, 60)}}).dump() + "\n";
    }
    folder_.write("piqa.jsonl", piqa);
    folder_.write("lambada_openai.jsonl", lambada);
    text_ = folder_.write("book.txt", joined(english_documents(2)));
    known_ = "eval --model " + (folder_ / "run").string() + " --data " + folder_.path().string();
  }
  TemporaryDirectory folder_;
  std::string text_, known_;
};

TEST_F(EvalCommand, PrintsATableAndWritesResultsAndSamples) {
  const std::string out = (folder_ / "out").string();
  const std::string command =
      known_ + " --tasks piqa,lambada_openai --text " + text_ + " --limit 5 --samples --out " + out;
  const Output first = run(command);
  ASSERT_EQ(first.code, 0) << first.text;
  for (const char* part : {"piqa", "acc_norm", "lambada_openai", "perplexity", "bits_per_byte", "results.json"}) {
    EXPECT_NE(first.text.find(part), std::string::npos) << part << "\n" << first.text;
  }
  const std::string results = read_file(folder_ / "out" / "results.json");
  const nlohmann::json json = nlohmann::json::parse(results);
  EXPECT_EQ(json["n-samples"]["piqa"], (nlohmann::json{{"original", 8}, {"effective", 5}}));
  EXPECT_EQ(json["config"]["model_args"]["recipe"], "float32");
  const std::string samples = read_file(folder_ / "out" / "samples_piqa.jsonl");
  EXPECT_EQ(std::count(samples.begin(), samples.end(), '\n'), 5);
  // Everything is in the log: the same results without a pass.
  ASSERT_EQ(run(command).code, 0);
  EXPECT_EQ(read_file(folder_ / "out" / "results.json"), results);
}

TEST_F(EvalCommand, ARecipeChangesTheArithmetic) {
  const Output exact = run(known_ + " --text " + text_);
  const Output fp4 = run(known_ + " --text " + text_ + " --recipe fp4-direct");
  EXPECT_EQ(exact.code, 0) << exact.text;
  EXPECT_EQ(fp4.code, 0) << fp4.text;
  EXPECT_NE(exact.text, fp4.text);
  // The recipe of the run itself, whose state the checkpoint has.
  EXPECT_EQ(run(known_ + " --text " + text_ + " --recipe bf16").code, 0);
}

TEST_F(EvalCommand, AModelOfTheHuggingFaceToolsIsReadAsTheHarnessReadsIt) {
  const std::string model = (folder_ / "hf").string();
  export_checkpoint(folder_ / "run", {.tokenizer = folder_ / "data"}, model);
  const std::string rest = " --data " + folder_.path().string() + " --tasks lambada_openai --text " + text_;
  const auto results = [&](const std::string& name) {
    return nlohmann::json::parse(read_file(folder_ / name / "results.json"));
  };
  const auto args = [&](const std::string& name) { return results(name)["config"]["model_args"]; };
  const auto evaluated = [&](const std::string& options, const std::string& name) {
    const Output out = run("eval" + rest + options + " --out " + (folder_ / name).string());
    EXPECT_EQ(out.code, 0) << out.text;
    return results(name)["results"].dump();
  };
  const std::string by_run = evaluated(" --model " + (folder_ / "run").string(), "a");
  EXPECT_EQ(evaluated(" --prefix eos --model " + model, "b"), by_run) << "the same weights, the same tokens";
  EXPECT_EQ(args("a")["prefix"], "</s>");
  // What begins a text for the harness, and in every one of them where the tokenizer's configuration says so.
  EXPECT_NE(evaluated(" --model " + model, "c"), by_run);
  EXPECT_EQ(args("c")["prefix"], "<s>");
  EXPECT_EQ(args("c")["add_bos_token"], false);
  folder_.write("hf/tokenizer_config.json", R"({"add_bos_token": true})");
  const std::string with_bos = evaluated(" --model " + model, "d");
  EXPECT_EQ(args("d")["add_bos_token"], true);
  EXPECT_EQ(evaluated(" --prefix bos --bos yes --model " + (folder_ / "run").string(), "e"), with_bos);
  // A shorter context is another result.
  EXPECT_NE(evaluated(" --seq 8 --model " + model, "f"), with_bos);
  EXPECT_EQ(args("f")["max_length"], 8);
  expect_mistake("eval --model " + model + rest + " --out " + (folder_ / "c").string(), "scores_lambada_openai.jsonl");
  expect_mistake("eval --model tests/fixtures/hf/qwen2" + rest, "holds neither tokenizer.json nor tokenizer.model");
}

TEST_F(EvalCommand, AUsersTaskIsAFile) {
  const std::string task = folder_.write("mine.toml",
                                         "data = \"piqa.jsonl\"\nkind = \"continuation\"\ncontext = \"{{goal}}\"\n"
                                         "continuation = \"{{sol1}}\"\nmetrics = [\"acc\"]\n");
  const Output out = run(known_ + " --bos yes --prefix bos --tasks " + task);
  EXPECT_EQ(out.code, 0) << out.text;
  EXPECT_NE(out.text.find("mine"), std::string::npos) << out.text;
}

TEST_F(EvalCommand, MistakesGetOneSentenceAndExitCode2) {
  const std::string nowhere = (folder_ / "data").string();
  const std::string broken = folder_.write("broken.toml", "context = 1\n");
  const std::pair<std::string, const char*> mistakes[] = {
      {known_, "--tasks"},
      {known_ + " --tasks piqu", "did you mean 'piqa'"},
      {known_ + " --tasks piqa,piqa", "there are two tasks 'piqa'"},
      {known_ + " --tasks " + broken, "broken.toml:1: key 'context'"},
      {known_ + " --tasks boolq", "name the folder with --data"},
      {known_ + " --tasks piqa --limit -1", "--limit"},
      {known_ + " --tasks piqa --batch -1", "--batch"},
      {known_ + " --tasks piqa --prefix pad", "must be eos, bos or auto"},
      {known_ + " --tasks piqa --samples", "--out"},
      {known_ + " --tasks piqa --recipe bf17", "bf17"},
      {known_ + " --tasks piqa --device gpu", "must be cpu, cuda or auto"},
      {known_ + " --tasks piqa --tokenizer nowhere.model", "there is no tokenizer at"},
      {known_ + " --text nowhere.txt", "nowhere.txt"},
      {known_ + " --tasks piqa --seq -1", "--seq"},
      {known_ + " --tasks piqa --seq 65", "takes 1 to 64"},
      {known_ + " --tasks piqa --bos maybe", "must be yes, no or auto"},
      {"eval --tasks piqa --model " + nowhere, "holds no model"}};
  for (const auto& [arguments, expected] : mistakes) expect_mistake(arguments, expected);
}

}  // namespace
}  // namespace nibble
