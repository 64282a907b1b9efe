#include "nibble/data/chat_record.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/data/english.h"

namespace nibble {
namespace {

const std::string kTemplates = std::string(NIBBLE_SOURCE_DIR) + "/chat_templates/";

const Tokenizer& fixture(const std::string& name) {
  static std::map<std::string, Tokenizer> loaded;
  auto at = loaded.find(name);
  if (at == loaded.end()) {
    at = loaded.emplace(name, Tokenizer::load(std::string(NIBBLE_SOURCE_DIR) + "/tests/data/fixtures/" + name)).first;
  }
  return at->second;
}

MaskedTokens encode(const Tokenizer& tokenizer, const std::string& line, const std::string& format = "") {
  MaskedTokens out;
  ChatEncoder(tokenizer, format).encode(parse_chat_record(line, "here"), "here", out);
  return out;
}

std::vector<std::int32_t> counted_ids(const MaskedTokens& tokens) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < tokens.ids.size(); ++i) {
    if (tokens.counted[i] != 0) ids.push_back(tokens.ids[i]);
  }
  return ids;
}

std::vector<std::int32_t> with(std::vector<std::int32_t> ids, std::int32_t last) {
  ids.push_back(last);
  return ids;
}

TEST(ChatRecord, ThePromptIsContextAndTheCompletionCountsWithItsEnd) {
  const Tokenizer& tokenizer = fixture("smollm");
  const MaskedTokens tokens = encode(tokenizer, R"({"id": 7, "prompt": "Call me", "completion": " Ishmael."})");
  EXPECT_EQ(tokens.ids, with(tokenizer.encode("Call me Ishmael."), tokenizer.eos_id()));
  EXPECT_EQ(counted_ids(tokens), with(tokenizer.encode(" Ishmael."), tokenizer.eos_id()));
}

TEST(ChatRecord, ACompletionThatEndsWithTheEndGetsNoSecondOne) {
  const Tokenizer& tokenizer = fixture("smollm");
  ASSERT_EQ(tokenizer.piece(tokenizer.eos_id()), "<|endoftext|>");
  EXPECT_EQ(encode(tokenizer, R"({"prompt": "Call me", "completion": " Ishmael.<|endoftext|>"})").ids,
            encode(tokenizer, R"({"prompt": "Call me", "completion": " Ishmael."})").ids);
  // The prompt's own is another one.
  const MaskedTokens tokens = encode(tokenizer, R"({"prompt": "Call me<|endoftext|>", "completion": "x"})");
  EXPECT_EQ(counted_ids(tokens), with(tokenizer.encode("x"), tokenizer.eos_id()));
}

TEST(ChatRecord, OfMessagesTheAssistantsCountWithTheTokenThatEndsThem) {
  const Tokenizer& tokenizer = fixture("smollm");
  const MaskedTokens tokens = encode(tokenizer, R"({"messages": [
      {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"},
      {"role": "assistant", "content": "Alice."}, {"role": "user", "content": "Where?"},
      {"role": "assistant", "content": "On the bank."}]})",
                                     kTemplates + "chatml.toml");
  // The tokenizer finds the special tokens in a text too: the ids are those of the whole conversation.
  EXPECT_EQ(tokens.ids, tokenizer.encode("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
                                         "<|im_start|>assistant\nAlice.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n"
                                         "<|im_start|>assistant\nOn the bank.<|im_end|>\n"));
  const std::int32_t end = tokenizer.find_piece("<|im_end|>");
  std::vector<std::int32_t> expected = with(tokenizer.encode("Alice."), end);
  for (const std::int32_t id : with(tokenizer.encode("On the bank."), end)) expected.push_back(id);
  EXPECT_EQ(counted_ids(tokens), expected);
}

TEST(ChatRecord, MessagesOfWeightZeroAndListsOfPromptsAreContext) {
  const Tokenizer& tokenizer = fixture("smollm");
  const std::string all = R"({"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Alice.")";
  const std::string rest =
      R"({"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There.", "weight": 1})";
  const std::string format = kTemplates + "chatml.toml";
  const MaskedTokens weighted =
      encode(tokenizer, R"({"messages": [)" + all + R"(, "weight": 0}, )" + rest + "]}", format);
  const MaskedTokens lists =
      encode(tokenizer, R"({"prompt": [)" + all + R"(}], "completion": [)" + rest + "]}", format);
  EXPECT_EQ(counted_ids(weighted), with(tokenizer.encode("There."), tokenizer.find_piece("<|im_end|>")));
  EXPECT_EQ(weighted.ids, lists.ids);
  EXPECT_EQ(weighted.counted, lists.counted);
  EXPECT_EQ(weighted.ids, encode(tokenizer, R"({"messages": [)" + all + "}, " + rest + "]}", format).ids);
}

TEST(ChatRecord, SentencePieceGetsTheTokensById) {
  const Tokenizer& tokenizer = small_tokenizer();
  const MaskedTokens tokens = encode(tokenizer, R"({"messages": [
      {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Alice."}]})",
                                     kTemplates + "llama2.toml");
  EXPECT_EQ(tokens.ids.front(), tokenizer.bos_id());
  EXPECT_EQ(tokens.ids.back(), tokenizer.eos_id());
  EXPECT_EQ(tokenizer.decode(tokens.ids), "[INST] Who? [/INST] Alice. ");
  EXPECT_EQ(std::count(tokens.ids.begin(), tokens.ids.end(), tokenizer.eos_id()), 1);
  EXPECT_EQ(tokens.counted.back(), 1);
  EXPECT_EQ(tokens.counted.front(), 0);
}

TEST(ChatRecord, RefusesWithFileAndLineWhatIsNoRecord) {
  const std::pair<const char*, const char*> refused[] = {
      {R"({"prompt": "a")", "malformed JSON"},
      {R"(["prompt"])", "not a JSON object"},
      {R"({"text": "a"})", "has neither of them"},
      {R"({"prompt": "a"})", "has no 'completion'"},
      {R"({"completion": "a"})", "has no 'prompt'"},
      {R"({"prompt": "a", "completion": ""})", "the completion is empty"},
      {R"({"prompt": "a", "completion": " \n"})", "the completion is empty"},
      {R"({"prompt": "a", "completion": 3})", "'completion' is not a text"},
      {R"({"prompt": null, "completion": "a"})", "'prompt' is not a text"},
      {R"({"prompt": "a", "completion": []})", "not both texts or both lists"},
      {R"({"prompt": "a", "completion": "b", "messages": []})", "has both 'messages' and 'prompt'"},
      {R"({"messages": "a"})", "'messages' is not a list"},
      {R"({"messages": []})", "no message of the assistant"},
      {R"({"messages": ["a"]})", "message 1 of 'messages': this is not an object"},
      {R"({"messages": [{"content": "a"}]})", "message 1 of 'messages': 'role' is missing"},
      {R"({"messages": [{"role": "user"}]})", "message 1 of 'messages': 'content' is missing"},
      {R"({"messages": [{"role": "user", "content": null}]})", "'content' is not a text"},
      {R"({"messages": [{"role": "user", "content": "a"}]})", "no message of the assistant"},
      {R"({"messages": [{"role": "assistant", "content": "  "}]})", "the assistant's content is empty"},
      {R"({"messages": [{"role": "assistant", "content": "a", "weight": 0}]})", "no message of the assistant"},
      {R"({"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]})", "neither 0 nor 1"},
      {R"({"prompt": [{"role": "assistant", "content": "a"}], "completion": [{"role": "user", "content": "a"}]})",
       "'completion' has no message of the assistant"}};
  for (const auto& [line, reason] : refused) {
    const std::string message = user_error_of([&] { parse_chat_record(line, "a.jsonl:12"); });
    EXPECT_TRUE(message.starts_with("a.jsonl:12: ")) << message;
    EXPECT_NE(message.find(reason), std::string::npos) << message;
  }
}

TEST(ChatRecord, MessagesNeedATemplateAndItsTokens) {
  ASSERT_EQ(setenv("NIBBLE_CHAT_TEMPLATES", kTemplates.c_str(), 1), 0);
  const std::string line = R"({"messages": [{"role": "assistant", "content": "a"}]})";
  EXPECT_USER_ERROR(encode(fixture("gpt2"), line),
                    "here: messages need a chat template: the tokenizer has the special");
  EXPECT_USER_ERROR(encode(fixture("gpt2"), line, "chatml"), "the tokenizer has no token '<|im_start|>'");
  EXPECT_EQ(ChatEncoder(fixture("smollm"), "").template_name(), "chatml");
  // Prompts and completions need none.
  EXPECT_FALSE(encode(fixture("gpt2"), R"({"prompt": "a", "completion": "b"})").ids.empty());
  unsetenv("NIBBLE_CHAT_TEMPLATES");
}

}  // namespace
}  // namespace nibble
