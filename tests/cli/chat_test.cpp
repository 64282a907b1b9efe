// Prompts and completions through the program: prepared, trained on, refused.
#include <fstream>

#include "nibble/data/dataset.h"
#include "nibble/train/stored_model.h"
#include "tests/cli/program.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

const std::string kTokenizer = std::string(NIBBLE_SOURCE_DIR) + "/tests/data/fixtures/smollm";

std::string records(int count) {
  std::string lines;
  for (int i = 0; i < count; ++i) {
    const std::string number = std::to_string(i);
    lines += i % 2 == 0 ? R"({"prompt": "What follows )" + number + R"(?", "completion": " )" + std::to_string(i + 1) +
                              " does, of course.\"}\n"
                        : R"({"messages": [{"role": "user", "content": "Say )" + number +
                              R"("}, {"role": "assistant", "content": ")" + number + "\"}]}\n";
  }
  return lines;
}

TEST(Chat, IsPreparedAndTrainedOn) {
  const TemporaryDirectory dir;
  const std::string input = dir.write("chats.jsonl", records(200));
  const std::string data = (dir / "data").string();
  const Output prepared = run("data prepare --chat --tokenizer " + kTokenizer + " --input " + input +
                              " --valid-fraction 0.1 --out " + data);
  ASSERT_EQ(prepared.code, 0) << prepared.text;
  const DatasetMeta meta = read_dataset_meta(data);
  EXPECT_NE(prepared.text.find(std::to_string(meta.train.counted) + " of the training tokens"), std::string::npos)
      << prepared.text;
  EXPECT_NE(prepared.text.find("chat template 'chatml'"), std::string::npos) << prepared.text;

  const std::string config = dir.write("c.toml",
                                       "[model]\nlayers = 1\nwidth = 32\nheads = 2\nffn = 48\nvocab = 400\nseq = 32\n"
                                       "[data]\ndir = \"" +
                                           data + "\"\n[train]\nsteps = 3\nbatch = 4\nmicro_batch = 2\n");
  const Output trained = run("train --config " + config + " --out " + (dir / "run").string());
  EXPECT_EQ(trained.code, 0) << trained.text;
  const std::string metrics = read_file(dir / "run/metrics.jsonl");
  EXPECT_NE(metrics.find("\"counted_tokens\""), std::string::npos) << metrics;

  // What it writes from now on ends with a text or with its turn.
  setenv("NIBBLE_CHAT_TEMPLATES", NIBBLE_SOURCE_DIR "/chat_templates", 1);
  const StoredModel model = StoredModel::open(dir / "run");
  const Tokenizer tokenizer = model.tokenizer();
  const std::int32_t end_of_text = tokenizer.find_piece("<|endoftext|>"), end = tokenizer.find_piece("<|im_end|>");
  EXPECT_EQ(model.end_ids(tokenizer), (std::set<std::int32_t>{end_of_text, end}));
}

TEST(Chat, MistakesGetOneSentenceAndExitCode2) {
  const TemporaryDirectory dir;
  const auto prepare = [&](const std::string& text, const std::string& options, const std::string& tokenizer) {
    return "data prepare --tokenizer " + tokenizer + " --input " + dir.write("bad.jsonl", text) + " --out " +
           (dir / "out").string() + " " + options;
  };
  const std::string good = records(2);
  const std::string gpt2 = std::string(NIBBLE_SOURCE_DIR) + "/tests/data/fixtures/gpt2";
  const std::string where = "bad.jsonl:3: ";
  expect_mistake(prepare(good + R"({"prompt": "a"})", "--chat", kTokenizer), where + "the object has no 'completion'");
  expect_mistake(prepare(good + R"({"text": "a"})", "--chat", kTokenizer), where + "the object has neither");
  expect_mistake(prepare(good + R"({"prompt": "a", "completion": ""})", "--chat", kTokenizer),
                 where + "the completion is empty");
  expect_mistake(prepare(good + "{", "--chat", kTokenizer), where + "malformed JSON");
  expect_mistake(prepare(good, "--chat", gpt2), "bad.jsonl:2: messages need a chat template");
  expect_mistake(prepare(good, "--chat --template chatlm", kTokenizer), "did you mean 'chatml'");
  expect_mistake(prepare(good, "--chat --template llama3", kTokenizer), "the tokenizer has no token");
  expect_mistake(prepare(good, "--template chatml", kTokenizer), "--chat");
  expect_mistake(prepare(good, "--chat --field body", kTokenizer), "with --chat it is a record");
  expect_mistake(prepare(good, "", kTokenizer), "the object has no field 'text'");
}

}  // namespace
}  // namespace nibble
