// Hugging Face's tokenizer.json against what Python's `tokenizers` makes of the same texts
// (fixtures/make_tokenizers.py).
#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "nibble/data/prepare.h"
#include "nibble/data/tokenizer.h"
#include "nibble/io/checksum.h"
#include "nibble/io/json.h"
#include "tests/data/english.h"

namespace nibble {
namespace {

using Ids = std::vector<std::int32_t>;
using nlohmann::json;

const std::filesystem::path kFixtures = std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests/data/fixtures";
constexpr const char* kByteLevel[] = {"gpt2", "llama3", "smollm"};  // and without normalisation

const json& expected() {
  static const json value = read_json(kFixtures / "tokenizers_expected.json");
  return value;
}
std::vector<std::string> texts() { return expected().at("texts"); }

class Families : public testing::TestWithParam<const char*> {
 protected:
  Tokenizer tokenizer_ = Tokenizer::load(kFixtures / GetParam());
};
INSTANTIATE_TEST_SUITE_P(TokenizerJson, Families,
                         testing::Values("gpt2", "prefix", "llama3", "qwen", "smollm", "llama2", "metaspace"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(Families, EncodeAsPythonDoes) {
  const std::vector<Ids> ids = expected().at("ids").at(GetParam());
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(tokenizer_.encode(texts()[i]), ids[i]) << texts()[i];
}

TEST_P(Families, DecodeAsPythonDoes) {
  const std::vector<Ids> ids = expected().at("ids").at(GetParam());
  const std::vector<std::string> decoded = expected().at("decoded").at(GetParam());
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(tokenizer_.decode(ids[i]), decoded[i]) << texts()[i];
}

TEST_P(Families, GiveTheSameIdsFromACache) {
  WordCache cache;
  for (int round = 0; round < 2; ++round) {
    for (const std::string& text : texts()) {
      Ids ids;
      tokenizer_.encode_document(text, ids, &cache);
      EXPECT_EQ(ids.back(), tokenizer_.eos_id());
      ids.pop_back();
      EXPECT_EQ(ids, tokenizer_.encode(text)) << text;
    }
  }
}

TEST_P(Families, EncodeTheSameFromManyThreads) {
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  const std::vector<Ids> ids = expected().at("ids").at(GetParam());
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        for (std::size_t i = 0; i < ids.size(); ++i) count += tokenizer_.encode(texts()[i]) != ids[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST_P(Families, EncodeALongTextAsItsCachedWords) {
  std::string text;
  for (const std::string& document : english_documents(60)) text += document;
  Ids ids;
  WordCache cache;
  tokenizer_.encode_document(text, ids, &cache);
  EXPECT_EQ(tokenizer_.decode(ids), (GetParam() == std::string("prefix") ? " " : "") + text);
  ids.pop_back();
  EXPECT_EQ(tokenizer_.encode(text), ids);
}

TEST(TokenizerJson, ByteLevelDecodesWhatItEncoded) {
  for (const char* name : kByteLevel) {
    const Tokenizer tokenizer = Tokenizer::load(kFixtures / name);
    for (const std::string& text : texts()) {
      if (text.find("<|") != std::string::npos) continue;  // a special token decodes to nothing
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << name;
    }
  }
}

TEST(TokenizerJson, BytesThatAreNotUtf8CountAsReplacementCharacters) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures / "gpt2");
  const std::string r = "\xEF\xBF\xBD";
  // Unicode 15, tables 3-9 to 3-11: one for each maximal part of a character.
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
                                              "A")),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("\xED\xA0\x80"
                                              "B\xF4\x91\x92\x93\xFF")),
            r + r + r + "B" + r + r + r + r + r);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
                                              "C\xE6\x97")),
            r + r + r + r + "C" + r);
  EXPECT_EQ(tokenizer.encode("a\xFF"), tokenizer.encode("a" + r));
}

TEST(TokenizerJson, DecodesAPartOfACharacterAsItsBytes) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures / "smollm");
  const Ids ids = tokenizer.encode("\xF0\x93\x82\x80");
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(tokenizer.decode(std::span(ids).first(2)), "\xF0\x93");
}

TEST(TokenizerJson, KnowsWhatBeginsAndEndsAText) {
  const Tokenizer llama3 = Tokenizer::load(kFixtures / "llama3");  // by the template, by custom
  EXPECT_EQ(llama3.piece(llama3.bos_id()), "<|begin_of_text|>");
  EXPECT_EQ(llama3.piece(llama3.eos_id()), "<|end_of_text|>");
  const Tokenizer qwen = Tokenizer::load(kFixtures / "qwen");
  EXPECT_EQ(qwen.bos_id(), -1);
  EXPECT_EQ(qwen.piece(qwen.eos_id()), "<|endoftext|>");
}

TEST(TokenizerJson, KnowsWhetherTextsBeginByThemselves) {
  EXPECT_TRUE(Tokenizer::load(kFixtures / "llama3").adds_bos()) << "its template says so";
  EXPECT_FALSE(Tokenizer::load(kFixtures / "qwen").adds_bos()) << "it has no such token";
  const TemporaryDirectory dir;
  std::filesystem::copy(kFixtures / "llama3", dir / "model");
  dir.write("model/tokenizer_config.json", R"({"add_bos_token": false})");
  EXPECT_FALSE(Tokenizer::load(dir / "model").adds_bos());
  dir.write("model/tokenizer_config.json", R"({"add_bos_token": null})");
  EXPECT_TRUE(Tokenizer::load(dir / "model").adds_bos());
  dir.write("model/tokenizer_config.json", R"({"add_bos_token": 1})");
  EXPECT_USER_ERROR(Tokenizer::load(dir / "model"), "add_bos_token: not true or false");
}

/// A fixture with some of its values replaced.
std::filesystem::path changed(const TemporaryDirectory& dir, const char* name, const json& patch) {
  json value = read_json(kFixtures / name / "tokenizer.json");
  value.merge_patch(patch);
  return dir.write("tokenizer.json", value.dump());
}

TEST(TokenizerJson, TakesTheEndFromTheConfigBesideIt) {
  const TemporaryDirectory dir;
  changed(dir, "qwen", json::object());
  dir.write("tokenizer_config.json", R"({"bos_token": null, "eos_token": {"content": "<|im_end|>"}})");
  const Tokenizer tokenizer = Tokenizer::load(dir.path());
  EXPECT_EQ(tokenizer.piece(tokenizer.eos_id()), "<|im_end|>");
  dir.write("tokenizer_config.json", R"({"eos_token": "</none>"})");
  EXPECT_USER_ERROR(Tokenizer::load(dir.path()), "'</none>' is not a token");
}

TEST(TokenizerJson, AFolderIsLoadedAsItWasSaved) {
  const TemporaryDirectory dir;
  changed(dir, "qwen", json::object());
  dir.write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  const Tokenizer tokenizer = Tokenizer::load(dir.path());
  std::filesystem::create_directory(dir / "copy");
  EXPECT_EQ(tokenizer.save_in(dir / "copy"), "tokenizer.json");
  const Tokenizer copy = Tokenizer::load(dir / "copy");
  EXPECT_EQ(copy.hash(), tokenizer.hash());
  EXPECT_EQ(copy.hash(), xxh3_64(read_file(dir / "tokenizer.json")));
  EXPECT_EQ(copy.eos_id(), tokenizer.eos_id());
  EXPECT_EQ(copy.bos_id(), -1);
  std::filesystem::create_directory(dir / "empty");
  EXPECT_USER_ERROR(Tokenizer::load(dir / "empty"), "holds neither tokenizer.json nor tokenizer.model");
}

TEST(TokenizerJson, PreparesADataSet) {
  const TemporaryDirectory dir;
  PrepareOptions options;
  options.inputs = {dir.write("text.txt", joined(english_documents(6)))};
  options.tokenizer = kFixtures / "llama3/tokenizer.json";
  options.output = dir / "set";
  const DatasetMeta meta = prepare_dataset(options);
  const Tokenizer tokenizer = Tokenizer::load(options.output);
  EXPECT_EQ(meta.tokenizer, "tokenizer.json");
  EXPECT_EQ(meta.tokenizer_hash, tokenizer.hash());
  const ShardSet shards = ShardSet::open(options.output, "train");
  Ids ids(static_cast<std::size_t>(shards.tokens()));
  shards.copy(0, ids);
  Ids direct;
  for (const std::string& document : english_documents(6)) tokenizer.encode_document(document, direct);
  EXPECT_EQ(ids, direct);
}

TEST(TokenizerJson, RefusesWhatItDoesNotSupportByItsName) {
  const TemporaryDirectory dir;
  const auto refused = [&](const json& patch, const char* message) {
    EXPECT_USER_ERROR(Tokenizer::load(changed(dir, "gpt2", patch)), message);
  };
  refused({{"model", {{"type", "Unigram"}}}}, "model.type: 'Unigram' is not supported");
  refused({{"model", {{"dropout", 0.1}}}}, "model.dropout: a dropout other than 0");
  refused({{"model", {{"end_of_word_suffix", "</w>"}}}}, "end_of_word_suffix: a text other than");
  refused({{"model", {{"unk_token", "<none>"}}}}, "model.unk_token: '<none>' is not in the vocabulary");
  refused({{"model", {{"merges", {"a b c"}}}}}, "model.merges[0]: 'a b c' is not two tokens");
  refused({{"model", {{"merges", json::array({{"q", "q"}})}}}}, "model.merges[0]: 'qq' is not in the vocabulary");
  refused({{"model", {{"vocab", {{"a", 7}, {"b", 7}}}}}}, "two tokens have the id 7");
  refused({{"normalizer", {{"type", "BertNormalizer"}}}}, "normalizer: 'BertNormalizer' is not supported");
  refused({{"normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Nmt"}}}}}}},
          "normalizer.normalizers[0]: 'Nmt' is not supported");
  refused({{"pre_tokenizer", {{"type", "Whitespace"}}}}, "pre_tokenizer: 'Whitespace' is not supported");
  refused(
      {{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}}}},
      "'Digits' after ByteLevel");
  refused({{"decoder", {{"type", "WordPiece"}}}}, "decoder: 'WordPiece' is not supported");
  refused({{"decoder", nullptr}}, "'decoder' is missing");
  refused({{"post_processor", {{"type", "BertProcessing"}}}}, "post_processor: 'BertProcessing' is not supported");
  refused({{"added_tokens", {{{"id", 3}, {"content", "<x>"}}}}}, "added_tokens[0]: '<x>' has the id 3 of");
  refused({{"added_tokens", {{{"id", 3}, {"content", "<|endoftext|>"}}}}}, "has the id 3 here and 0 in the vocabulary");
  refused({{"model", nullptr}}, "'model' is missing");
  EXPECT_USER_ERROR(Tokenizer::load(dir.write("t.json", "{\"model\": ")), "malformed JSON");
  EXPECT_USER_ERROR(Tokenizer::load(dir.write("t.json", R"({"model": {"vocab": 3, "merges": []}})")), "not an object");
}

TEST(TokenizerJson, RefusesWhatWouldNotEnd) {
  const TemporaryDirectory dir;
  const auto refused = [&](const json& patch, const char* message) {
    EXPECT_USER_ERROR(Tokenizer::load(changed(dir, "gpt2", patch)), message);
  };
  refused({{"decoder", {{"type", "Metaspace"}, {"replacement", ""}}}}, "decoder.replacement: not one character");
  refused({{"decoder", {{"type", "Strip"}, {"content", ""}, {"start", 1}, {"stop", 0}}}}, "content: not one character");
  refused({{"decoder", {{"type", "Strip"}, {"content", "x"}, {"start", -1}, {"stop", 0}}}}, "start: -1 is not a count");
  refused({{"model", {{"vocab", {{"q", 2147483646}}}}}}, "2147483646 is not an id, they are 0 to 1048575");
  const json metaspace = {{"type", "Metaspace"}, {"replacement", "_"}};
  refused({{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {metaspace, metaspace}}}}}, "a second Metaspace");
}

TEST(TokenizerJson, ReplacementsMayNotFillTheMemory) {
  const TemporaryDirectory dir;
  const json grow = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(100, 'a')}};
  const json many = json::array({grow, grow, grow, grow, grow, grow, grow, grow, grow});
  const json normalizer = {{"normalizer", {{"type", "Sequence"}, {"normalizers", many}}}};
  const Tokenizer encoder = Tokenizer::load(changed(dir, "gpt2", normalizer));
  EXPECT_USER_ERROR(encoder.encode("a"), "make more than 4160 bytes of a text");
  const json decoder = {{"decoder", {{"type", "Sequence"}, {"decoders", many}}}};
  const Tokenizer other = Tokenizer::load(changed(dir, "gpt2", decoder));
  EXPECT_USER_ERROR(other.decode(other.encode("a")), "make more than 4160 bytes of a text");
}

TEST(TokenizerJson, AnExpressionThatBacktracksWithoutEndIsRefused) {
  const TemporaryDirectory dir;
  const json split = {{"type", "Split"}, {"pattern", {{"Regex", "(?:a|aa)+c"}}}, {"behavior", "Isolated"}};
  const Tokenizer tokenizer = Tokenizer::load(changed(dir, "gpt2", {{"pre_tokenizer", split}}));
  EXPECT_USER_ERROR(tokenizer.encode(std::string(100, 'a') + "b c"), "'(?:a|aa)+c' takes too long on this text");
  // A long run of blanks is as many steps as it has bytes.
  const Tokenizer gpt2 = Tokenizer::load(kFixtures / "gpt2");
  EXPECT_FALSE(gpt2.encode(std::string(2'000'000, ' ') + "x").empty());
}

TEST(TokenizerJson, RefusesATokenizerWithoutAnEnd) {
  const TemporaryDirectory dir;
  json value = read_json(kFixtures / "prefix/tokenizer.json");
  value["added_tokens"] = json::array();
  json& vocabulary = value["model"]["vocab"];
  for (const char* name : {"<|endoftext|>", "<|im_end|>"}) vocabulary.erase(name);
  EXPECT_USER_ERROR(Tokenizer::load(dir.write("tokenizer.json", value.dump())), "no token ends a text");
}

}  // namespace
}  // namespace nibble
