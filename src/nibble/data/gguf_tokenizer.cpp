#include "nibble/data/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "nibble/data/bpe/word_patterns.h"
#include "nibble/data/gguf_token_type.h"
#include "nibble/data/utf8.h"
#include "nibble/io/hugging_face_files.h"
#include "nibble/tensor/error.h"

namespace nibble {

using nlohmann::json;

namespace {

constexpr const char* kModelKey = "tokenizer.ggml.model";
constexpr std::string_view kSign = "\xE2\x96\x81";  // U+2581, SentencePiece's blank

json split(const char* expression) {
  return {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}};
}
json byte_level(bool gpt2_words) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", gpt2_words}};
}
json sequence(const char* of, json steps) { return {{"type", "Sequence"}, {of, std::move(steps)}}; }

/// What `pre` says beside the words.
struct PreTokenizer {
  json steps;
  bool ignore_merges = false;
  bool add_bos = false;
  bool nfc = false;
};

bool is_one_of(const std::string& name, std::initializer_list<const char*> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

PreTokenizer pre_tokenizer(const std::string& name, const std::string& origin) {
  PreTokenizer pre;
  json& steps = pre.steps;
  steps = json::array();
  if (is_one_of(name, {"", "default"})) {
    steps = {split(R"([\p{P}\$\+<=>\^~\|]+)"), split(bpe::kGpt2Pattern), split(R"(\p{N}+)"), split("[0-9][0-9][0-9]"),
             byte_level(false)};
  } else if (is_one_of(name, {"gpt-2", "phi-2", "olmo", "exaone4"})) {
    steps.push_back(byte_level(true));
  } else if (is_one_of(name, {"smollm", "starcoder", "refact", "codeshell"})) {
    steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
    steps.push_back(byte_level(true));
  } else if (is_one_of(name, {"llama-bpe", "llama3", "llama-v3", "falcon3"})) {
    steps = {split(bpe::kLlama3Pattern), byte_level(false)};
    pre.ignore_merges = pre.add_bos = true;
  } else if (is_one_of(name, {"qwen2", "deepseek-r1-qwen", "megrez"})) {
    steps = {split(bpe::kQwenPattern), byte_level(false)};
    pre.nfc = true;
  } else if (name == "tekken") {
    steps = {split(bpe::kTekkenPattern), byte_level(false)};
    pre.ignore_merges = pre.add_bos = true;
  } else {
    user_error("'{}': tokenizer.ggml.pre '{}' is not supported; give the model's tokenizer.json with --tokenizer",
               origin, name);
  }
  return pre;
}

/// The values of one file, checked against each other.
class Vocabulary {
 public:
  explicit Vocabulary(const GgufFile& file) : file_(file) {
    const auto* tokens = file.texts("tokenizer.ggml.tokens");
    if (tokens == nullptr || tokens->empty()) fail("tokenizer.ggml.tokens is missing");
    tokens_ = tokens;
    types_ = file.integers("tokenizer.ggml.token_type")
                 .value_or(std::vector<std::int64_t>(tokens->size(), gguf_token::kNormal));
    if (types_.size() != tokens->size()) {
      fail("tokenizer.ggml.token_type has {} values for {} tokens", types_.size(), tokens->size());
    }
    for (std::size_t i = 0; i < tokens->size(); ++i) {
      const std::string& token = (*tokens)[i];
      if (repaired_utf8(token) != token) fail("token {} is not UTF-8", i);
      if (type(i) == gguf_token::kUnused) continue;
      if (!ids_.emplace(token, i).second) fail("tokens {} and {} are both '{}'", ids_.at(token), i, token);
    }
  }

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> message, Args&&... args) const {
    user_error("'{}': {}", file_.path().string(), fmt::format(message, std::forward<Args>(args)...));
  }
  std::size_t size() const { return tokens_->size(); }
  const std::string& token(std::size_t id) const { return (*tokens_)[id]; }
  std::int64_t type(std::size_t id) const { return types_[id]; }
  const std::unordered_map<std::string, std::size_t>& ids() const { return ids_; }
  bool is_normal(const std::string& token) const {
    const auto at = ids_.find(token);
    return at != ids_.end() && type(at->second) == gguf_token::kNormal;
  }
  /// The id that a key names; nothing where it is absent or names none.
  std::optional<std::size_t> special(const char* name) const {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
    const auto id = file_.integer(key);
    if (!id || *id < 0 || *id == UINT32_MAX) return std::nullopt;
    if (static_cast<std::size_t>(*id) >= size()) fail("{} is {}, beyond {} tokens", key, *id, size());
    return static_cast<std::size_t>(*id);
  }

  json vocab() const {
    json vocab = json::object();
    for (const auto& [token, id] : ids_) vocab[token] = id;
    return vocab;
  }
  json added_tokens() const {
    json added = json::array();
    for (std::size_t i = 0; i < size(); ++i) {
      const bool special = type(i) == gguf_token::kControl || type(i) == gguf_token::kUnknown;
      if (!special && type(i) != gguf_token::kUserDefined) continue;
      if (token(i).empty()) fail("token {} is empty", i);
      added.push_back({{"id", i},
                       {"content", token(i)},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", special}});
    }
    return added;
  }

 private:
  const GgufFile& file_;
  const std::vector<std::string>* tokens_ = nullptr;
  std::vector<std::int64_t> types_;
  std::unordered_map<std::string, std::size_t> ids_;  // without the unused ones
};

json listed_merges(const GgufFile& file, const Vocabulary& vocabulary) {
  const auto* merges = file.texts("tokenizer.ggml.merges");
  if (merges == nullptr) vocabulary.fail("tokenizer.ggml.merges is missing");
  for (const std::string& merge : *merges) {
    if (repaired_utf8(merge) != merge) vocabulary.fail("a merge is not UTF-8");
  }
  return *merges;
}

/// Every pair of tokens that makes a third, the third of the highest score first: SentencePiece takes them in this
/// order. Of the pairs that make the same token the one with the longest left part is first, as in the Hugging Face
/// tools' own conversion.
json merges_of_scores(const GgufFile& file, const Vocabulary& vocabulary) {
  const auto scores = file.numbers("tokenizer.ggml.scores");
  if (!scores) vocabulary.fail("tokenizer.ggml.scores is missing");
  if (scores->size() != vocabulary.size()) {
    vocabulary.fail("tokenizer.ggml.scores has {} values for {} tokens", scores->size(), vocabulary.size());
  }
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < vocabulary.size(); ++i) {
    if (vocabulary.type(i) == gguf_token::kNormal) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return (*scores)[a] > (*scores)[b]; });
  json merges = json::array();
  for (const std::size_t id : order) {
    const std::string& token = vocabulary.token(id);
    std::vector<std::size_t> borders;
    for (std::size_t at = 0; at < token.size(); at += utf8_length(token[at])) borders.push_back(at);
    for (std::size_t b = borders.size(); b-- > 1;) {
      const std::string left = token.substr(0, borders[b]), right = token.substr(borders[b]);
      if (vocabulary.is_normal(left) && vocabulary.is_normal(right)) merges.push_back({left, right});
    }
  }
  return merges;
}

/// Puts the beginning before a text and the end behind it.
json template_of(const Vocabulary& vocabulary, std::optional<std::size_t> before, std::optional<std::size_t> after) {
  if (!before && !after) return nullptr;
  json specials = json::object();
  const auto part = [](const char* sequence, int type, const std::optional<std::string>& special) -> json {
    if (special) return {{"SpecialToken", {{"id", *special}, {"type_id", type}}}};
    return {{"Sequence", {{"id", sequence}, {"type_id", type}}}};
  };
  json single = json::array(), pair = json::array();
  for (const char* sequence : {"A", "B"}) {
    const int type = sequence[0] == 'B' ? 1 : 0;
    std::vector<json> parts;
    const auto add_special = [&](std::optional<std::size_t> id) {
      if (!id) return;
      const std::string& token = vocabulary.token(*id);
      specials[token] = {{"id", token}, {"ids", {*id}}, {"tokens", {token}}};
      parts.push_back(part(sequence, type, token));
    };
    add_special(before);
    parts.push_back(part(sequence, type, std::nullopt));
    add_special(after);
    for (const json& p : parts) {
      if (type == 0) single.push_back(p);
      pair.push_back(p);
    }
  }
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", specials}};
}

}  // namespace

bool has_gguf_tokenizer(const GgufFile& file) {
  const auto model = file.text(kModelKey);
  return model && *model != "none" && *model != "no_vocab";
}

std::map<std::string, std::string> gguf_tokenizer_files(const GgufFile& file) {
  const std::string origin = file.path().string();
  if (!has_gguf_tokenizer(file)) user_error("'{}' has no tokenizer; give the model's with --tokenizer", origin);
  const std::string kind = *file.text(kModelKey);
  if (kind != "gpt2" && kind != "llama") {
    user_error("'{}': the tokenizer '{}' is not supported; nibble knows gpt2 and llama", origin, kind);
  }
  const bool sentencepiece = kind == "llama";
  const Vocabulary vocabulary(file);
  auto bos = vocabulary.special("bos"), eos = vocabulary.special("eos"), unknown = vocabulary.special("unknown");
  const auto padding = vocabulary.special("padding");
  json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", sentencepiece},
                {"byte_fallback", sentencepiece},
                {"ignore_merges", false},
                {"vocab", vocabulary.vocab()}};
  json normalizer, words, decoder;
  bool add_bos = sentencepiece;
  if (sentencepiece) {
    for (const char* key : {"tokenizer.ggml.precompiled_charsmap", "tokenizer.ggml.remove_extra_whitespaces"}) {
      if (file.find(key) != nullptr && file.flag(key) != false) vocabulary.fail("{} is not supported", key);
    }
    // llama.cpp's ids where a file names none.
    const auto customary = [&](std::size_t id) { return id < vocabulary.size() ? std::optional(id) : std::nullopt; };
    if (!bos) bos = customary(1);
    if (!eos) eos = customary(2);
    if (!unknown) unknown = customary(0);
    model["merges"] = file.texts("tokenizer.ggml.merges") != nullptr ? listed_merges(file, vocabulary)
                                                                     : merges_of_scores(file, vocabulary);
    if (unknown) model["unk_token"] = vocabulary.token(*unknown);
    const bool prefix = file.flag("tokenizer.ggml.add_space_prefix").value_or(true);
    const json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSign}};
    normalizer = prefix ? sequence("normalizers", {{{"type", "Prepend"}, {"prepend", kSign}}, replace}) : replace;
    json steps = {{{"type", "Replace"}, {"pattern", {{"String", kSign}}}, {"content", " "}},
                  {{"type", "ByteFallback"}},
                  {{"type", "Fuse"}}};
    if (prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    decoder = sequence("decoders", steps);
  } else {
    const PreTokenizer pre = pre_tokenizer(file.text("tokenizer.ggml.pre").value_or(""), origin);
    add_bos = pre.add_bos;
    model["ignore_merges"] = pre.ignore_merges;
    model["merges"] = listed_merges(file, vocabulary);
    if (pre.nfc) normalizer = {{"type", "NFC"}};
    words = sequence("pretokenizers", pre.steps);
    decoder = byte_level(true);
    decoder["add_prefix_space"] = true;  // as the families' files have it; it means nothing to a decoder
  }
  const auto says_bos = file.flag("tokenizer.ggml.add_bos_token");
  add_bos = says_bos.value_or(add_bos && bos);
  const bool add_eos = file.flag("tokenizer.ggml.add_eos_token").value_or(false);
  if (add_bos && !bos) vocabulary.fail("texts begin with a token that tokenizer.ggml.bos_token_id does not name");
  if (add_eos && !eos) vocabulary.fail("texts end with a token that tokenizer.ggml.eos_token_id does not name");
  const json tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", vocabulary.added_tokens()},
      {"normalizer", normalizer},
      {"pre_tokenizer", words},
      {"post_processor", template_of(vocabulary, add_bos ? bos : std::nullopt, add_eos ? eos : std::nullopt)},
      {"decoder", decoder},
      {"model", std::move(model)}};

  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  json ids = json::object();
  const auto name = [&](const char* key, const char* id_key, std::optional<std::size_t> id) {
    config[key] = id ? json(vocabulary.token(*id)) : json();
    if (id_key != nullptr) ids[id_key] = id ? json(*id) : json();
  };
  name("bos_token", "bos_token_id", bos);
  name("pad_token", "pad_token_id", padding);
  name("unk_token", nullptr, unknown);
  // A file that names no end leaves the choice to the vocabulary.
  if (eos) name("eos_token", "eos_token_id", eos);
  if (const std::set<std::int32_t> ends = gguf_end_ids(file); eos && ends.size() > 1) ids["eos_token_id"] = ends;
  if (const auto chat = file.text("tokenizer.chat_template")) {
    if (repaired_utf8(*chat) != *chat) vocabulary.fail("tokenizer.chat_template is not UTF-8");
    config["chat_template"] = *chat;
  }
  return {{kTokenizerJsonFile, tokenizer.dump() + "\n"},
          {kTokenizerConfigFile, config.dump(2) + "\n"},
          {kGenerationConfigFile, ids.dump(2) + "\n"}};
}

std::set<std::int32_t> gguf_end_ids(const GgufFile& file) {
  std::set<std::int32_t> ids;
  for (const char* name : {"eos", "eot", "eom"}) {
    const auto id = file.integer(fmt::format("tokenizer.ggml.{}_token_id", name));
    if (id && *id >= 0 && *id <= INT32_MAX) ids.insert(static_cast<std::int32_t>(*id));
  }
  return ids;
}

Tokenizer gguf_tokenizer(const GgufFile& file) {
  std::map<std::string, std::string> files = gguf_tokenizer_files(file);
  return Tokenizer::parse(std::move(files[kTokenizerJsonFile]), files[kTokenizerConfigFile], file.path().string());
}

}  // namespace nibble
