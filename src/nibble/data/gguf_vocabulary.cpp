#include "nibble/data/gguf_vocabulary.h"

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "nibble/data/bpe/tokenizer_json.h"
#include "nibble/data/bpe/word_patterns.h"
#include "nibble/data/gguf_token_type.h"
#include "nibble/data/tokenizer.h"
#include "nibble/data/tokenizer_files.h"
#include "nibble/data/wire_format.h"
#include "nibble/io/file.h"
#include "nibble/io/hugging_face_files.h"
#include "nibble/io/json.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<float> scores;  // of SentencePiece

  void set(std::size_t id, std::string token, std::int32_t type) {
    if (id >= tokens.size()) resize(id + 1);
    tokens[id] = std::move(token);
    types[id] = type;
  }
  /// New rows are of no token.
  void resize(std::size_t rows) {
    for (std::size_t id = tokens.size(); id < rows; ++id) tokens.push_back(fmt::format("[PAD{}]", id));
    types.resize(rows, gguf_token::kUnused);
  }
};

/// The files of a tokenizer.
struct Source {
  explicit Source(const fs::path& file)
      : path(file), text(read_file(file)), config_text(tokenizer_config_beside(file)), config(json::object()) {
    if (config_text.empty()) return;
    const std::string where = (file.parent_path() / kTokenizerConfigFile).string();
    config = parse_json(config_text, where);
    if (!config.is_object()) user_error("'{}' is not a JSON object", where);
  }

  fs::path path;
  std::string text;
  std::string config_text;  // of tokenizer_config.json beside it, or ""
  json config;              // the same, or an empty object
};

void fit_rows(Vocabulary& vocabulary, std::int64_t rows, const fs::path& file) {
  if (vocabulary.tokens.size() > static_cast<std::size_t>(rows)) {
    user_error("the tokenizer '{}' has {} tokens, the model {} rows of its embedding", file.string(),
               vocabulary.tokens.size(), rows);
  }
  vocabulary.resize(static_cast<std::size_t>(rows));
}

void add_id(GgufMetadata& metadata, const char* name, std::int64_t id) {
  if (id >= 0) metadata.emplace_back(fmt::format("tokenizer.ggml.{}_token_id", name), static_cast<std::uint32_t>(id));
}

/// What llama.cpp shows to a person who chats with the model.
void add_chat_template(GgufMetadata& metadata, const Source& source) {
  const fs::path jinja = source.path.parent_path() / kChatTemplateFile;
  const json& config = source.config;
  if (fs::exists(jinja)) {
    metadata.emplace_back("tokenizer.chat_template", read_file(jinja));
  } else if (config.contains("chat_template") && config["chat_template"].is_string()) {
    metadata.emplace_back("tokenizer.chat_template", config["chat_template"].get<std::string>());
  }
}

/// Reads the messages of sentencepiece_model.proto; the numbers are its field numbers.
class SentencePieceModel {
 public:
  SentencePieceModel(std::string_view model, std::string origin) : origin_(std::move(origin)) {
    WireReader reader(model);
    while (reader.next()) {
      if (reader.field == 1) read_piece(reader.bytes);
      if (reader.field == 2) read_trainer(reader.bytes);
      if (reader.field == 3) read_normalizer(reader.bytes);
    }
    if (!reader.ok() || vocabulary.tokens.empty()) user_error("'{}' is not a SentencePiece model", origin_);
    if (model_type_ != kBpe) {
      user_error("the tokenizer '{}' is a SentencePiece model of another type than BPE, which GGUF export has not",
                 origin_);
    }
  }

  Vocabulary vocabulary;
  bool space_prefix = true;

 private:
  static constexpr std::uint64_t kBpe = 2;

  void read_piece(std::string_view message) {
    std::string piece;
    std::uint64_t type = gguf_token::kNormal;
    float score = 0;
    WireReader reader(message);
    while (reader.next()) {
      if (reader.field == 1) piece = std::string(reader.bytes);
      if (reader.field == 2 && reader.bytes.size() == sizeof score) {
        std::memcpy(&score, reader.bytes.data(), sizeof score);
      }
      if (reader.field == 3) type = reader.value;
    }
    if (!reader.ok() || type > gguf_token::kByte) user_error("'{}' is not a SentencePiece model", origin_);
    // A normal token of one character is found without merges, and unlike a user-defined one it does not make
    // llama.cpp put a space before what follows.
    if (piece == "<n>") {
      piece = "\n";
      type = gguf_token::kNormal;
    }
    vocabulary.set(vocabulary.tokens.size(), piece, static_cast<std::int32_t>(type));
    vocabulary.scores.push_back(score);
  }
  void read_trainer(std::string_view message) {
    WireReader reader(message);
    while (reader.next()) {
      if (reader.field == 3) model_type_ = reader.value;
      if (reader.field == 24 && reader.value != 0) refuse("treat_whitespace_as_suffix");
    }
  }
  void read_normalizer(std::string_view message) {
    bool extra_spaces_go = true;
    WireReader reader(message);
    while (reader.next()) {
      if (reader.field == 2 && !reader.bytes.empty()) refuse("a normalisation rule");
      if (reader.field == 3) space_prefix = reader.value != 0;
      if (reader.field == 4) extra_spaces_go = reader.value != 0;
      if (reader.field == 5 && reader.value == 0) refuse("escape_whitespaces = false");
    }
    if (extra_spaces_go) refuse("remove_extra_whitespaces");
  }
  [[noreturn]] void refuse(const char* what) const {
    user_error("the tokenizer '{}' has {}, which llama.cpp's has not", origin_, what);
  }

  std::string origin_;
  std::uint64_t model_type_ = 1;
};

GgufMetadata sentencepiece_vocabulary(const Source& source, std::int64_t rows) {
  SentencePieceModel model(source.text, source.path.string());
  Vocabulary& vocabulary = model.vocabulary;
  const Tokenizer tokenizer = Tokenizer::parse(source.text, source.config_text, source.path.string());
  std::int64_t unknown = -1;
  for (std::size_t id = 0; id < vocabulary.types.size(); ++id) {
    if (vocabulary.types[id] == gguf_token::kUnknown) unknown = static_cast<std::int64_t>(id);
  }
  fit_rows(vocabulary, rows, source.path);
  vocabulary.scores.resize(vocabulary.tokens.size(), -10000.0f);
  GgufMetadata metadata;
  metadata.emplace_back("tokenizer.ggml.model", std::string("llama"));
  metadata.emplace_back("tokenizer.ggml.pre", std::string("default"));
  metadata.emplace_back("tokenizer.ggml.tokens", GgufArray(std::move(vocabulary.tokens)));
  metadata.emplace_back("tokenizer.ggml.scores", GgufArray(std::move(vocabulary.scores)));
  metadata.emplace_back("tokenizer.ggml.token_type", GgufArray(std::move(vocabulary.types)));
  add_id(metadata, "bos", tokenizer.bos_id());
  add_id(metadata, "eos", tokenizer.eos_id());
  add_id(metadata, "unknown", unknown);
  const bool add_bos = source.config.value("add_bos_token", false) && tokenizer.bos_id() >= 0;
  metadata.emplace_back("tokenizer.ggml.add_bos_token", add_bos);
  metadata.emplace_back("tokenizer.ggml.add_eos_token", false);
  metadata.emplace_back("tokenizer.ggml.add_space_prefix", model.space_prefix);
  add_chat_template(metadata, source);
  return metadata;
}

/// The steps of a pre_tokenizer, a sequence being the steps in it.
std::vector<json> steps_of(const json& node) {
  if (node.is_null()) return {};
  if (node.value("type", "") != "Sequence") return {node};
  for (const char* key : {"pretokenizers", "normalizers", "processors"}) {
    if (node.contains(key)) return node[key].get<std::vector<json>>();
  }
  return {};
}

bool is_byte_level(const json& file) {
  const std::vector<json> steps = steps_of(file.value("pre_tokenizer", json()));
  return !steps.empty() && steps.back().value("type", "") == "ByteLevel";
}

/// How the families of models cut a text, and llama.cpp's names of it.
struct Cut {
  const char* name;
  const char* pattern;  // of a Split that comes first
  bool ignore_merges;
};
constexpr std::array<Cut, 5> kCuts = {{{"llama-bpe", bpe::kLlama3Pattern, true},
                                       {"smaug-bpe", bpe::kLlama3Pattern, false},
                                       {"qwen2", bpe::kQwenPattern, false},
                                       {"gpt-2", bpe::kGpt2Pattern, false},
                                       {"gpt-2", nullptr, false}}};

/// llama.cpp's name, or "".
std::string cut_name(const json& file, bool ignore_merges) {
  std::vector<json> steps = steps_of(file.value("pre_tokenizer", json()));
  const json last = steps.back();
  steps.pop_back();
  if (last.value("add_prefix_space", true)) return "";
  const bool own_pattern = last.value("use_regex", true);
  if (steps.size() == 1 && steps[0].value("type", "") == "Digits" && steps[0].value("individual_digits", false) &&
      own_pattern && !ignore_merges) {
    return "smollm";
  }
  std::string pattern;
  if (steps.size() == 1 && !own_pattern) {
    const json& split = steps[0];
    const bool isolated = split.value("type", "") == "Split" && split.value("behavior", "") == "Isolated" &&
                          !split.value("invert", false) && split.contains("pattern") &&
                          split["pattern"].contains("Regex");
    if (!isolated) return "";
    pattern = split["pattern"]["Regex"].get<std::string>();
  } else if (!steps.empty() || !own_pattern) {
    return "";
  }
  for (const Cut& cut : kCuts) {
    if (cut.ignore_merges == ignore_merges && pattern == (cut.pattern == nullptr ? "" : cut.pattern)) return cut.name;
  }
  return "";
}

bool template_begins_with_token(const json& file) {
  for (const json& step : steps_of(file.value("post_processor", json()))) {
    if (step.value("type", "") != "TemplateProcessing" || !step.contains("single") || step["single"].empty()) continue;
    return step["single"][0].contains("SpecialToken");
  }
  return false;
}

GgufMetadata byte_level_vocabulary(const Source& source, const json& file, std::int64_t rows) {
  const fs::path& path = source.path;
  const json& config = source.config;
  const bpe::TokenizerJson parsed = bpe::parse_tokenizer_json(source.text, source.config_text, path.string());
  for (const json& step : steps_of(file.value("normalizer", json()))) {
    if (step.value("type", "") != "NFC") {
      user_error("the tokenizer '{}' normalises by {}, which llama.cpp's does not", path.string(),
                 step.value("type", ""));
    }
  }
  const std::string pre = cut_name(file, parsed.model.ignore_merges);
  if (pre.empty()) {
    user_error(
        "the tokenizer '{}' cuts a text into words in a way that llama.cpp has no name for; nibble knows those "
        "of GPT-2, Llama 3, Qwen and SmolLM",
        path.string());
  }
  Vocabulary vocabulary;
  std::vector<std::string> spelling;
  for (const auto& [token, id] : parsed.model.vocabulary) {
    vocabulary.set(static_cast<std::size_t>(id), token, gguf_token::kNormal);
  }
  spelling = vocabulary.tokens;
  std::int64_t padding = -1;
  const json pad = config.value("pad_token", json());
  const std::string pad_token = pad.is_string()   ? pad.get<std::string>()
                                : pad.is_object() ? pad.value("content", "")
                                                  : "";
  for (const bpe::AddedToken& token : parsed.added) {
    vocabulary.set(static_cast<std::size_t>(token.id), token.content,
                   token.special ? gguf_token::kControl : gguf_token::kUserDefined);
    if (token.content == pad_token) padding = token.id;
  }
  fit_rows(vocabulary, rows, path);
  std::vector<std::string> merges;
  merges.reserve(parsed.model.merges.size());
  for (const bpe::Merge& merge : parsed.model.merges) {
    merges.push_back(spelling[static_cast<std::size_t>(merge.left)] + " " +
                     spelling[static_cast<std::size_t>(merge.right)]);
  }
  GgufMetadata metadata;
  metadata.emplace_back("tokenizer.ggml.model", std::string("gpt2"));
  metadata.emplace_back("tokenizer.ggml.pre", pre);
  metadata.emplace_back("tokenizer.ggml.tokens", GgufArray(std::move(vocabulary.tokens)));
  metadata.emplace_back("tokenizer.ggml.token_type", GgufArray(std::move(vocabulary.types)));
  metadata.emplace_back("tokenizer.ggml.merges", GgufArray(std::move(merges)));
  add_id(metadata, "bos", parsed.bos);
  add_id(metadata, "eos", parsed.eos);
  add_id(metadata, "padding", padding);
  const bool add_bos = config.contains("add_bos_token") && config["add_bos_token"].is_boolean()
                           ? config["add_bos_token"].get<bool>()
                           : template_begins_with_token(file);
  metadata.emplace_back("tokenizer.ggml.add_bos_token", add_bos && parsed.bos >= 0);
  metadata.emplace_back("tokenizer.ggml.add_eos_token", false);
  add_chat_template(metadata, source);
  return metadata;
}

}  // namespace

GgufMetadata gguf_vocabulary(const fs::path& tokenizer, std::int64_t rows) {
  const bool folder = fs::is_directory(tokenizer);
  const fs::path json_file = folder ? tokenizer / kTokenizerJsonFile : tokenizer;
  const fs::path model_file = folder ? tokenizer / kSentencePieceFile : tokenizer;
  if (!fs::exists(json_file) && !fs::exists(model_file)) {
    user_error("'{}' holds neither {} nor {}", tokenizer.string(), kTokenizerJsonFile, kSentencePieceFile);
  }
  if (json_file.extension() == ".json" && fs::exists(json_file)) {
    try {
      const Source source(json_file);
      const json file = parse_json(source.text, json_file.string());
      if (is_byte_level(file)) return byte_level_vocabulary(source, file, rows);
    } catch (const json::exception& error) {  // a value of another type than the format's
      user_error("'{}' is not a tokenizer: {}", json_file.string(), error.what());
    }
    if (!folder || !fs::exists(model_file)) {
      user_error("the tokenizer '{}' is not of byte level; GGUF export wants SentencePiece's tokenizer.model for it",
                 json_file.string());
    }
  }
  return sentencepiece_vocabulary(Source(model_file), rows);
}

}  // namespace nibble
