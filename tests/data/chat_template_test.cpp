#include "nibble/data/chat_template.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/data/english.h"

namespace nibble {
namespace {

/// Tests run in any folder.
[[maybe_unused]] const int g_templates = setenv("NIBBLE_CHAT_TEMPLATES", NIBBLE_SOURCE_DIR "/chat_templates", 1);

std::string fixture(const std::string& name) { return std::string(NIBBLE_SOURCE_DIR) + "/tests/data/fixtures/" + name; }
ChatTemplate shipped(const std::string& name) {
  return load_chat_template(std::string(NIBBLE_SOURCE_DIR) + "/chat_templates/" + name + ".toml");
}

const std::vector<ChatMessage> kMessages = {{"system", "Be brief.", false},
                                            {"user", " What is 2 + 2?\n", false},
                                            {"assistant", "4", true},
                                            {"user", "And 3 + 3?", false},
                                            {"assistant", " 6 ", true}};

/// The text, with what counts in «».
std::string spelled(const ChatTemplate& format, const std::vector<ChatMessage>& messages) {
  std::string text;
  bool inside = false;
  for (const ChatPiece& piece : render_chat(format, messages, "here")) {
    if (piece.counted != inside) text += piece.counted ? "«" : "»";
    inside = piece.counted;
    text += piece.text;
  }
  return inside ? text + "»" : text;
}

TEST(ChatTemplate, ChatMlIsWhatItsModelsRead) {
  EXPECT_EQ(spelled(shipped("chatml"), kMessages),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n What is 2 + 2?\n<|im_end|>\n"
            "<|im_start|>assistant\n«4<|im_end|>»\n<|im_start|>user\nAnd 3 + 3?<|im_end|>\n"
            "<|im_start|>assistant\n« 6 <|im_end|>»\n");
}

TEST(ChatTemplate, SmolLm2AndQwenHaveASystemMessageUnasked) {
  EXPECT_EQ(spelled(shipped("smollm2"), kMessages), spelled(shipped("chatml"), kMessages));
  EXPECT_EQ(spelled(shipped("smollm2"), {kMessages.begin() + 3, kMessages.end()}),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nAnd 3 + 3?<|im_end|>\n<|im_start|>assistant\n« 6 <|im_end|>»\n");
  EXPECT_NE(spelled(shipped("qwen2.5"), {kMessages.begin() + 3, kMessages.end()}).find("You are Qwen"),
            std::string::npos);
}

TEST(ChatTemplate, Llama3IsWhatItsModelsRead) {
  EXPECT_EQ(spelled(shipped("llama3"), kMessages),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2 + 2?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n«4<|eot_id|>»"
            "<|start_header_id|>user<|end_header_id|>\n\nAnd 3 + 3?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n«6<|eot_id|>»");
}

TEST(ChatTemplate, Llama2IsWhatItsModelsRead) {
  EXPECT_EQ(spelled(shipped("llama2"), kMessages),
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n What is 2 + 2? [/INST]« 4 </s>»"
            "<s>[INST] And 3 + 3? [/INST]« 6 </s>»");
}

TEST(ChatTemplate, TheTokensAreCutOutOfTheTexts) {
  std::vector<std::string> tokens;
  for (const ChatPiece& piece : render_chat(shipped("llama3"), {kMessages.begin() + 3, kMessages.end()}, "here")) {
    if (piece.token) tokens.push_back(piece.text);
    EXPECT_EQ(!piece.token, piece.text.find("<|") == std::string::npos) << piece.text;
  }
  EXPECT_EQ(tokens, (std::vector<std::string>{"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                                              "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}));
}

TEST(ChatTemplate, IsRecognisedByTheTokenizersSpecialTokens) {
  ASSERT_EQ(setenv("NIBBLE_CHAT_TEMPLATES", (std::string(NIBBLE_SOURCE_DIR) + "/chat_templates").c_str(), 1), 0);
  std::string why;
  for (const char* name : {"smollm", "qwen"}) {
    const auto found = recognise_chat_template(Tokenizer::load(fixture(name)), why);
    ASSERT_TRUE(found) << name << ": " << why;
    EXPECT_EQ(found->name, "chatml");
  }
  for (const char* name : {"gpt2", "llama2"}) {  // <s> and </s> alone do not say that a tokenizer is meant for chats
    EXPECT_FALSE(recognise_chat_template(Tokenizer::load(fixture(name)), why)) << name;
    EXPECT_NE(why.find("special tokens of no chat template"), std::string::npos) << why;
    EXPECT_NE(why.find("llama2"), std::string::npos) << why;
  }
}

TEST(ChatTemplate, IsNotGuessedWhereSeveralAreMeant) {
  const TemporaryDirectory dir;
  const std::string text = read_file(std::string(NIBBLE_SOURCE_DIR) + "/chat_templates/chatml.toml");
  dir.write("one.toml", text);
  dir.write("other.toml", text);
  ASSERT_EQ(setenv("NIBBLE_CHAT_TEMPLATES", dir.path().c_str(), 1), 0);
  std::string why;
  // The shipped chatml may be found beside these two.
  EXPECT_FALSE(recognise_chat_template(Tokenizer::load(fixture("smollm")), why));
  EXPECT_NE(why.find("several chat templates"), std::string::npos) << why;
  EXPECT_NE(why.find("one"), std::string::npos) << why;
  EXPECT_NE(why.find("other"), std::string::npos) << why;
  unsetenv("NIBBLE_CHAT_TEMPLATES");
}

TEST(ChatTemplate, RefusesMessagesThatItCannotSay) {
  EXPECT_USER_ERROR(render_chat(shipped("chatml"), {{"tool", "x", false}}, "a.jsonl:3"),
                    "a.jsonl:3: the chat template 'chatml' has no role 'tool' but assistant, system, user");
  EXPECT_USER_ERROR(render_chat(shipped("chatml"), {{"user", "x<|im_end|>\n", false}}, "a.jsonl:3"),
                    "a.jsonl:3: a message of the role 'user' holds '<|im_end|>'");
  EXPECT_USER_ERROR(render_chat(shipped("llama2"), {{"system", "x", false}, {"assistant", "y", true}}, "a.jsonl:3"),
                    "'system' must stand before one of the role 'user'");
  EXPECT_USER_ERROR(render_chat(shipped("llama2"), {{"system", "x", false}}, "a.jsonl:3"), "must stand before");
}

TEST(ChatTemplate, RefusesFilesThatMakeNoSense) {
  const auto parse = [](const std::string& text) { return parse_chat_template(text, "t", "t.toml"); };
  EXPECT_USER_ERROR(parse("[roles.user]\nbefore = \"U:\""), "must have the role 'assistant'");
  EXPECT_USER_ERROR(parse("[roles.assistant]\nbefore = \"A:\""), "must have an 'end'");
  EXPECT_USER_ERROR(parse("[roles.assistant]\nend = \"\\n\"\nafer = \"x\""), "did you mean 'after'");
  EXPECT_USER_ERROR(parse("[roles.assistant]\nend = \"\\n\"\n[roles.system]\njoins = \"usr\""), "joins the role 'usr'");
  EXPECT_USER_ERROR(parse("default_system = \"x\"\n[roles.assistant]\nend = \"\\n\""), "needs the role 'system'");
  EXPECT_USER_ERROR(parse("tokens = [\"\"]\n[roles.assistant]\nend = \"\\n\""), "an empty token");
  EXPECT_USER_ERROR(load_chat_template("chatlm"), "did you mean 'chatml'");
}

}  // namespace
}  // namespace nibble
