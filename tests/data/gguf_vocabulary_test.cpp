#include "nibble/data/gguf_vocabulary.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "nibble/data/tokenizer.h"
#include "nibble/io/json.h"
#include "tests/data/english.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

fs::path fixture(const std::string& name) { return fs::path(NIBBLE_SOURCE_DIR) / "tests/data/fixtures" / name; }

template <class T>
const T& value_of(const GgufMetadata& metadata, const std::string& key) {
  for (const auto& [name, value] : metadata) {
    if (name == "tokenizer." + key) return std::get<T>(value);
  }
  throw std::runtime_error("no " + key);
}
template <class T>
const std::vector<T>& array_of(const GgufMetadata& metadata, const std::string& key) {
  return std::get<std::vector<T>>(value_of<GgufArray>(metadata, "ggml." + key));
}

std::string refusal(const fs::path& tokenizer, std::int64_t rows) {
  try {
    gguf_vocabulary(tokenizer, rows);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(GgufVocabulary, NamesHowEachFamilyCutsItsTexts) {
  const std::map<std::string, std::string> names = {
      {"gpt2", "gpt-2"}, {"llama3", "llama-bpe"}, {"qwen", "qwen2"}, {"smollm", "smollm"}};
  for (const auto& [family, name] : names) {
    const GgufMetadata metadata = gguf_vocabulary(fixture(family), 512);
    EXPECT_EQ(value_of<std::string>(metadata, "ggml.model"), "gpt2");
    EXPECT_EQ(value_of<std::string>(metadata, "ggml.pre"), name);
  }
}

TEST(GgufVocabulary, HasEveryTokenAtItsIdAndUnusedRowsBehind) {
  for (const char* family : {"gpt2", "llama3", "qwen", "smollm"}) {
    const Tokenizer tokenizer = Tokenizer::load(fixture(family));
    const GgufMetadata metadata = gguf_vocabulary(fixture(family), 512);
    const auto& tokens = array_of<std::string>(metadata, "tokens");
    const auto& types = array_of<std::int32_t>(metadata, "token_type");
    ASSERT_EQ(tokens.size(), 512U);
    for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      // Added tokens are written as the file has them; pieces of the normalised kind are spelled as they are looked
      // for.
      if (types[static_cast<std::size_t>(id)] != 1) continue;
      EXPECT_EQ(tokens[static_cast<std::size_t>(id)], tokenizer.piece(id)) << family;
    }
    EXPECT_EQ(tokens[511], "[PAD511]");
    EXPECT_EQ(types[511], 5);
    EXPECT_EQ(types[static_cast<std::size_t>(tokenizer.eos_id())], 3) << family;
    EXPECT_EQ(value_of<std::uint32_t>(metadata, "ggml.eos_token_id"), static_cast<std::uint32_t>(tokenizer.eos_id()));
  }
}

TEST(GgufVocabulary, KeepsTheMergesInTheirOrder) {
  const nlohmann::json file = read_json(fixture("gpt2") / "tokenizer.json");
  std::vector<std::string> expected;
  for (const auto& merge : file["model"]["merges"]) {
    expected.push_back(merge.is_string() ? merge.get<std::string>()
                                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  EXPECT_EQ(array_of<std::string>(gguf_vocabulary(fixture("gpt2"), 512), "merges"), expected);
}

TEST(GgufVocabulary, BeginsTextsAsTheTemplateDoes) {
  EXPECT_TRUE(value_of<bool>(gguf_vocabulary(fixture("llama3"), 512), "ggml.add_bos_token"));
  EXPECT_FALSE(value_of<bool>(gguf_vocabulary(fixture("qwen"), 512), "ggml.add_bos_token"));
}

TEST(GgufVocabulary, OfASentencePieceModelHasItsPiecesAndANewlineForItsSign) {
  const TemporaryDirectory dir;
  const Tokenizer& tokenizer = small_tokenizer();
  tokenizer.save_in(dir.path());
  const std::int32_t size = tokenizer.vocab_size();
  const GgufMetadata metadata = gguf_vocabulary(dir.path(), size + 3);
  EXPECT_EQ(value_of<std::string>(metadata, "ggml.model"), "llama");
  const auto& tokens = array_of<std::string>(metadata, "tokens");
  const auto& types = array_of<std::int32_t>(metadata, "token_type");
  const auto& scores = array_of<float>(metadata, "scores");
  ASSERT_EQ(tokens.size(), static_cast<std::size_t>(size) + 3);
  std::size_t newlines = 0;
  for (std::int32_t id = 0; id < size; ++id) {
    const auto i = static_cast<std::size_t>(id);
    if (tokenizer.piece(id) == "<n>") {
      EXPECT_EQ(tokens[i], "\n");
      EXPECT_EQ(types[i], 1);
      ++newlines;
    } else {
      EXPECT_EQ(tokens[i], tokenizer.piece(id));
    }
    EXPECT_EQ(types[i] == 6, tokenizer.piece(id).starts_with("<0x"));
  }
  EXPECT_EQ(newlines, 1U);
  EXPECT_EQ(types[0], 2);
  EXPECT_EQ(types[1], 3);
  EXPECT_GT(scores[262], scores[263]);  // merges by falling score, behind control pieces, bytes and <n>
  EXPECT_FALSE(value_of<bool>(metadata, "ggml.add_bos_token"));
  EXPECT_TRUE(value_of<bool>(metadata, "ggml.add_space_prefix"));
}

TEST(GgufVocabulary, RefusesWhatLlamaCppWouldTokeniseOtherwise) {
  EXPECT_NE(refusal(fixture("metaspace"), 512).find("not of byte level"), std::string::npos);
  EXPECT_NE(refusal(fixture("gpt2"), 100).find("tokens, the model 100 rows"), std::string::npos);
  EXPECT_NE(refusal(fs::path(NIBBLE_SOURCE_DIR) / "tests/data", 512).find("neither"), std::string::npos);
  const TemporaryDirectory dir;
  nlohmann::json file = read_json(fixture("llama3") / "tokenizer.json");
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = R"(\s+|\S+)";
  dir.write("tokenizer.json", file.dump());
  EXPECT_NE(refusal(dir.path(), 512).find("no name for"), std::string::npos);
}

}  // namespace
}  // namespace nibble
