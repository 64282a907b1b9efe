// Tokenizers in GGUF files against the tokenizer.json files that they were made of, on the texts of fixtures/.
#include "nibble/data/gguf_tokenizer.h"

#include <nlohmann/json.hpp>

#include "nibble/io/json.h"
#include "tests/data/english.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

const std::filesystem::path kFixtures = std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests/data/fixtures";
const json& expected() {
  static const json value = read_json(kFixtures / "tokenizers_expected.json");
  return value;
}

/// The values of a file of metadata alone.
struct Values {
  GgufMetadata metadata;

  void set(const std::string& key, GgufValue value) {
    erase(key);
    metadata.emplace_back("tokenizer.ggml." + key, std::move(value));
  }
  void erase(const std::string& key) {
    std::erase_if(metadata, [&](const auto& item) { return item.first == "tokenizer.ggml." + key; });
  }
  GgufFile open(const TemporaryDirectory& dir) const {
    write_gguf(dir / "m.gguf", metadata, {}, [](std::size_t) { return std::span<const std::byte>(); });
    return GgufFile(dir / "m.gguf");
  }
};

std::string two(const json& merge) {
  return merge.is_string() ? merge.get<std::string>() : merge[0].get<std::string>() + " " + merge[1].get<std::string>();
}

/// What llama.cpp's converter makes of a byte-level tokenizer.json.
Values byte_level_values(const std::string& family, const std::string& pre) {
  const json file = read_json(kFixtures / family / "tokenizer.json");
  std::map<std::size_t, std::pair<std::string, std::int32_t>> tokens;
  for (const auto& [token, id] : file["model"]["vocab"].items()) tokens[id] = {token, 1};
  for (const json& token : file["added_tokens"]) tokens[token["id"]] = {token["content"], token["special"] ? 3 : 4};
  std::vector<std::string> texts, merges;
  std::vector<std::int32_t> types;
  const std::size_t count = tokens.rbegin()->first + 3;  // and two rows without a token
  for (std::size_t id = 0; id < count; ++id) {
    const auto at = tokens.find(id);
    texts.push_back(at == tokens.end() ? fmt::format("[PAD{}]", id) : at->second.first);
    types.push_back(at == tokens.end() ? 5 : at->second.second);
  }
  for (const json& merge : file["model"]["merges"]) merges.push_back(two(merge));
  Values values;
  values.set("model", std::string("gpt2"));
  values.set("pre", pre);
  values.set("tokens", GgufArray(texts));
  values.set("token_type", GgufArray(types));
  values.set("merges", GgufArray(merges));
  values.set("eos_token_id", 0u);
  return values;
}

void expect_same_tokenizer(const Values& values, const std::string& family) {
  const TemporaryDirectory dir;
  const GgufFile file = values.open(dir);
  const Tokenizer got = gguf_tokenizer(file);
  const std::vector<std::string> texts = expected().at("texts");
  const std::vector<Ids> ids = expected().at("ids").at(family);
  const std::vector<std::string> decoded = expected().at("decoded").at(family);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    // Qwen's fixture has added tokens that swallow blanks and that are looked for in NFC, of which GGUF says nothing.
    const auto holds = [&](const char* part) { return texts[i].find(part) != std::string::npos; };
    if (family == "qwen" && (holds("[MASK]") || holds("3 \xE2\x84\xA6m"))) continue;
    EXPECT_EQ(got.encode(texts[i]), ids[i]) << family << ": " << texts[i];
    EXPECT_EQ(got.decode(ids[i]), decoded[i]) << family << ": " << texts[i];
  }
  const Tokenizer want = Tokenizer::load(kFixtures / family);
  EXPECT_EQ(got.vocab_size(), want.vocab_size());
  for (const std::string& text : english_documents(20)) EXPECT_EQ(got.encode(text), want.encode(text));
  // The same from a folder.
  for (const auto& [name, text] : gguf_tokenizer_files(file)) dir.write(name, text);
  const Tokenizer again = Tokenizer::load(dir.path());
  EXPECT_EQ(again.eos_id(), got.eos_id());
  for (const std::string& text : texts) EXPECT_EQ(again.encode(text), got.encode(text));
}

TEST(GgufTokenizer, ByteLevelFamiliesAreThoseOfTheirTokenizerJson) {
  expect_same_tokenizer(byte_level_values("gpt2", "gpt-2"), "gpt2");
  expect_same_tokenizer(byte_level_values("smollm", "smollm"), "smollm");
  expect_same_tokenizer(byte_level_values("llama3", "llama-bpe"), "llama3");
  expect_same_tokenizer(byte_level_values("qwen", "qwen2"), "qwen");
}

/// Llama 2's file names its merges; scores that fall with their order say the same.
Values llama_values() {
  const json file = read_json(kFixtures / "llama2" / "tokenizer.json");
  const json& vocab = file["model"]["vocab"];
  std::vector<std::string> texts(vocab.size());
  std::vector<std::int32_t> types(vocab.size(), 1);
  std::vector<float> scores(vocab.size(), -1e6f);
  for (const auto& [token, id] : vocab.items()) {
    texts.at(id) = token;
    if (token.starts_with("<0x")) types.at(id) = 6;
  }
  for (const json& token : file["added_tokens"]) types.at(token["id"]) = token["special"] ? 3 : 4;
  types[0] = 2;
  float score = 0;
  for (const json& merge : file["model"]["merges"]) {
    std::string both = two(merge);
    both.erase(both.find(' '), 1);
    float& of_token = scores.at(vocab[both]);
    if (of_token == -1e6f) of_token = --score;
  }
  Values values;
  values.set("model", std::string("llama"));
  values.set("pre", std::string("default"));
  values.set("tokens", GgufArray(texts));
  values.set("token_type", GgufArray(types));
  values.set("scores", GgufArray(scores));
  return values;
}

TEST(GgufTokenizer, SentencePieceFromItsScoresIsLlamas) { expect_same_tokenizer(llama_values(), "llama2"); }

TEST(GgufTokenizer, SentencePieceFromItsScoresIsSentencePiece) {
  const TemporaryDirectory dir;
  std::string text;
  for (const std::string& document : english_documents(400)) text += document + "\n";
  TokenizerTraining training;
  training.inputs = {dir.write("text.txt", text)};
  training.vocab_size = 900;
  training.user_defined_pieces = {};
  const Tokenizer want = Tokenizer::train(training);
  std::vector<std::string> texts;
  std::vector<std::int32_t> types;
  std::vector<float> scores;
  for (std::int32_t id = 0; id < want.vocab_size(); ++id) {
    texts.push_back(want.piece(id));
    types.push_back(id == 0 ? 2 : id < 3 ? 3 : id < 3 + 256 ? 6 : 1);
    scores.push_back(id < 3 + 256 ? 0.0f : static_cast<float>(3 + 256 - id));  // as its BPE trainer numbers pieces
  }
  Values values;
  values.set("model", std::string("llama"));
  values.set("tokens", GgufArray(texts));
  values.set("token_type", GgufArray(types));
  values.set("scores", GgufArray(scores));
  const Tokenizer got = gguf_tokenizer(values.open(dir));
  EXPECT_EQ(got.bos_id(), want.bos_id());
  EXPECT_EQ(got.eos_id(), want.eos_id());
  std::size_t tokens = 0;
  for (const std::string& document : english_documents(300)) {
    const Ids ids = want.encode(document);
    EXPECT_EQ(got.encode(document), ids) << document;
    EXPECT_EQ(got.decode(ids), document);
    tokens += ids.size();
  }
  EXPECT_GT(tokens, 1000u);
  for (const char* odd : {"  two  spaces ", "caf\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80", "a\tb", "x"}) {
    EXPECT_EQ(got.encode(odd), want.encode(odd)) << odd;
  }
}

TEST(GgufTokenizer, OtherRulesOfWordsAreThoseOfLlamaCpp) {
  const TemporaryDirectory dir;
  const Tokenizer gpt2 = gguf_tokenizer(byte_level_values("gpt2", "gpt-2").open(dir));
  // No merge crosses a border of words, so a text's ids are those of its words.
  const auto expect_words = [&](const std::string& pre, const std::vector<std::string>& words) {
    std::string text;
    Ids ids;
    for (const std::string& word : words) {
      text += word;
      const Ids of_word = gpt2.encode(word);
      ids.insert(ids.end(), of_word.begin(), of_word.end());
    }
    EXPECT_EQ(gguf_tokenizer(byte_level_values("gpt2", pre).open(dir)).encode(text), ids) << pre << ": " << text;
  };
  expect_words("gpt-2", {"the", " 12345", " and", "!?\n", "\n", "the"});
  expect_words("default", {"the", " ", "123", "45", " and", "!?", "\n", "\n", "the"});
  expect_words("starcoder", {"the", " ", "1", "2", "3", " and", "!?", "\n", "\n", "the"});
  expect_words("llama3", {"the", " ", "123", "45", " and", "!?\n\n", "the"});
  expect_words("deepseek-r1-qwen", {"the", " ", "1", "2", "3", " and", "!?\n\n", "the"});
  expect_words("tekken", {"the", "The", "Ing", " ", "1", "2", " and", "!?\n\n", "the"});
}

TEST(GgufTokenizer, TheBeginningIsPutThereWhereTheFileSaysSo) {
  const TemporaryDirectory dir;
  Values values = byte_level_values("smollm", "smollm");
  values.set("bos_token_id", 1u);
  values.set("padding_token_id", 1u);
  const auto template_of = [&] {
    return json::parse(gguf_tokenizer_files(values.open(dir))["tokenizer.json"])["post_processor"];
  };
  EXPECT_TRUE(template_of().is_null());
  values.set("add_bos_token", true);
  const json post = template_of();
  const std::string bos = std::get<std::vector<std::string>>(std::get<GgufArray>(values.metadata[2].second))[1];
  EXPECT_EQ(post["single"][0]["SpecialToken"]["id"], bos);
  EXPECT_EQ(post["single"][1]["Sequence"]["id"], "A");
  EXPECT_EQ(post["pair"].size(), 4u);
  EXPECT_EQ(post["special_tokens"][bos]["ids"], json::array({1}));
  const json ids = json::parse(gguf_tokenizer_files(values.open(dir))["generation_config.json"]);
  EXPECT_EQ(ids["bos_token_id"], 1);
  EXPECT_EQ(ids["eos_token_id"], 0);
  EXPECT_EQ(ids["pad_token_id"], 1);
  EXPECT_EQ(gguf_tokenizer(values.open(dir)).bos_id(), 1);
  EXPECT_EQ(gguf_end_ids(values.open(dir)), std::set<std::int32_t>{0});
  values.set("eot_token_id", 3u);
  EXPECT_EQ(gguf_end_ids(values.open(dir)), (std::set<std::int32_t>{0, 3}));
  EXPECT_EQ(json::parse(gguf_tokenizer_files(values.open(dir))["generation_config.json"])["eos_token_id"],
            json::array({0, 3}));
}

TEST(GgufTokenizer, TheChatTemplateGoesAlong) {
  const TemporaryDirectory dir;
  Values values = byte_level_values("smollm", "smollm");
  values.metadata.emplace_back("tokenizer.chat_template", std::string("{{ 'a\nb' }}"));
  EXPECT_EQ(json::parse(gguf_tokenizer_files(values.open(dir))["tokenizer_config.json"])["chat_template"],
            "{{ 'a\nb' }}");
}

template <class F>
void expect_refused(Values values, const F& change, const std::string& why) {
  const TemporaryDirectory dir;
  change(values);
  EXPECT_USER_ERROR(gguf_tokenizer(values.open(dir)), why);
}

TEST(GgufTokenizer, WhatIsNotSupportedOrContradictsItselfIsNamed) {
  const Values good = byte_level_values("smollm", "smollm");
  expect_refused(
      good, [](Values& v) { v.erase("model"); }, "has no tokenizer");
  expect_refused(
      good, [](Values& v) { v.set("model", std::string("t5")); }, "the tokenizer 't5' is not supported");
  expect_refused(
      good, [](Values& v) { v.set("pre", std::string("viking")); }, "tokenizer.ggml.pre 'viking'");
  expect_refused(
      good, [](Values& v) { v.erase("tokens"); }, "tokenizer.ggml.tokens is missing");
  expect_refused(
      good, [](Values& v) { v.erase("merges"); }, "tokenizer.ggml.merges is missing");
  expect_refused(
      good,
      [](Values& v) {
        v.set("token_type", GgufArray(std::vector<std::int32_t>{1, 2}));
      },
      "tokenizer.ggml.token_type has 2 values");
  expect_refused(
      good, [](Values& v) { v.set("eos_token_id", 1u << 30); }, "tokenizer.ggml.eos_token_id is 1073741824");
  expect_refused(
      good, [](Values& v) { v.set("add_bos_token", true); }, "tokenizer.ggml.bos_token_id does not name");
  expect_refused(
      good, [](Values& v) { v.set("merges", GgufArray(std::vector<std::string>{"zz yy"})); }, "zz");
  expect_refused(
      llama_values(), [](Values& v) { v.erase("scores"); }, "tokenizer.ggml.scores is missing");
  expect_refused(
      llama_values(), [](Values& v) { v.set("scores", GgufArray(std::vector<float>{1})); },
      "tokenizer.ggml.scores has 1 values");
  expect_refused(
      llama_values(), [](Values& v) { v.set("remove_extra_whitespaces", true); },
      "tokenizer.ggml.remove_extra_whitespaces is not supported");
  const auto tokens = [](const std::vector<std::string>& texts) {
    return [texts](Values& v) {
      v.set("tokens", GgufArray(texts));
      v.erase("token_type");
    };
  };
  expect_refused(good, tokens({"a", "b", "a"}), "tokens 0 and 2 are both 'a'");
  expect_refused(good, tokens({"a", "\xFF"}), "token 1 is not UTF-8");
}

}  // namespace
}  // namespace nibble
