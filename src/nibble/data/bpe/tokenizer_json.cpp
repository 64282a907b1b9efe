#include "nibble/data/bpe/tokenizer_json.h"

#include <initializer_list>
#include <optional>
#include <unordered_set>

#include "nibble/data/bpe/json_node.h"
#include "nibble/data/bpe/steps_json.h"

namespace nibble::bpe {

namespace {

constexpr std::string_view kMetaspaceSign = "\xE2\x96\x81";  // U+2581

/// Tables have an entry for every id, used or not, so a file must not choose their size freely. Models have at most as
/// many tokens (model/config.h).
constexpr std::int64_t kMaxIds = 1 << 20;

std::int32_t read_id(const JsonNode& node) {
  const std::int64_t id = node.integer();
  if (id < 0 || id >= kMaxIds) user_error("{}: {} is not an id, they are 0 to {}", node.place(), id, kMaxIds - 1);
  return static_cast<std::int32_t>(id);
}

/// Reads the object "model".
class ModelReader {
 public:
  explicit ModelReader(const JsonNode& node) : node_(node) {}

  ModelConfig read() {
    const auto type = node_.find("type");
    if (type && type->text() != "BPE") user_error("{}: '{}' is not supported, only BPE", type->place(), type->text());
    refuse_options();
    read_vocabulary();
    for (const JsonNode& merge : node_.at("merges").items()) read_merge(merge);
    if (const auto unknown = node_.find("unk_token")) config_.unknown = id_of(unknown->text(), *unknown);
    config_.fuse_unknown = node_.flag_at("fuse_unk", false);
    config_.byte_fallback = node_.flag_at("byte_fallback", false);
    config_.ignore_merges = node_.flag_at("ignore_merges", false);
    return std::move(config_);
  }

 private:
  void refuse_options() const {
    for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const auto value = node_.find(key);
      if (value && !value->text().empty()) user_error("{}: a text other than \"\" is not supported", value->place());
    }
    if (const auto dropout = node_.find("dropout"); dropout && dropout->number() != 0) {
      user_error("{}: a dropout other than 0 is not supported", dropout->place());
    }
  }
  void read_vocabulary() {
    const JsonNode vocabulary = node_.at("vocab");
    std::unordered_set<std::int32_t> ids;
    for (const auto [spelling, value] : vocabulary.members()) {
      const std::int32_t id = read_id(JsonNode(value, vocabulary.place()));
      if (!ids.insert(id).second) user_error("{}: two tokens have the id {}", vocabulary.place(), id);
      if (!config_.vocabulary.emplace(spelling, id).second) {
        user_error("{}: '{}' is there twice", vocabulary.place(), spelling);
      }
    }
    if (ids.empty()) user_error("{}: there are no tokens", vocabulary.place());
  }
  /// "left right" or ["left", "right"].
  void read_merge(const JsonNode& node) {
    std::string left, right;
    if (node.is_text()) {
      const std::string_view text = node.text();
      const std::size_t blank = text.find(' ');
      if (blank == std::string_view::npos || text.find(' ', blank + 1) != std::string_view::npos) {
        user_error("{}: '{}' is not two tokens with a blank between", node.place(), text);
      }
      left = text.substr(0, blank);
      right = text.substr(blank + 1);
    } else {
      const auto pair = node.items();
      if (pair.size() != 2) user_error("{}: not two tokens", node.place());
      left = pair[0].text();
      right = pair[1].text();
    }
    config_.merges.push_back({id_of(left, node), id_of(right, node), id_of(left + right, node)});
  }
  std::int32_t id_of(std::string_view spelling, const JsonNode& where) const {
    const auto token = config_.vocabulary.find(std::string(spelling));
    if (token == config_.vocabulary.end()) user_error("{}: '{}' is not in the vocabulary", where.place(), spelling);
    return token->second;
  }

  const JsonNode& node_;
  ModelConfig config_;
};

AddedToken read_added(const JsonNode& node, const ModelConfig& model) {
  AddedToken token;
  token.content = node.text_at("content");
  token.id = read_id(node.at("id"));
  token.special = node.flag_at("special", false);
  token.normalized = node.flag_at("normalized", !token.special);
  token.single_word = node.flag_at("single_word", false);
  token.lstrip = node.flag_at("lstrip", false);
  token.rstrip = node.flag_at("rstrip", false);
  const auto known = model.vocabulary.find(token.content);
  if (known != model.vocabulary.end() && known->second != token.id) {
    user_error("{}: '{}' has the id {} here and {} in the vocabulary", node.place(), token.content, token.id,
               known->second);
  }
  return token;
}

std::vector<AddedToken> read_all_added(const JsonNode& root, const ModelConfig& model) {
  std::vector<AddedToken> tokens;
  std::unordered_map<std::int32_t, std::string_view> ids;
  for (const auto& [spelling, id] : model.vocabulary) ids.emplace(id, spelling);
  const auto list = root.find("added_tokens");
  if (!list) return tokens;
  for (const JsonNode& node : list->items()) {
    AddedToken token = read_added(node, model);
    const auto [place, is_new] = ids.emplace(token.id, node.text_at("content"));
    if (!is_new && place->second != token.content) {
      user_error("{}: '{}' has the id {} of '{}'", node.place(), token.content, token.id, place->second);
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

/// What the templates put before and after a text.
struct Template {
  std::optional<std::string> before, after;
};

void read_post_processor(const JsonNode& node, Template& found) {
  const std::string_view type = node.text_at("type");
  if (type == "Sequence") {
    for (const JsonNode& step : node.at("processors").items()) read_post_processor(step, found);
  } else if (type == "TemplateProcessing") {
    bool after = false;
    for (const JsonNode& item : node.at("single").items()) {
      const auto special = item.find("SpecialToken");
      if (!special) {
        after = true;
      } else if (auto& side = after ? found.after : found.before; !side) {
        side = special->text_at("id");
      }
    }
  } else if (type != "ByteLevel") {
    user_error("{}: '{}' is not supported", node.place(), type);
  }
}

/// Finds the ids of the beginning and the end of a text.
class Ends {
 public:
  Ends(const JsonNode& root, std::optional<JsonNode> config, const TokenizerJson& tokenizer)
      : root_(root), config_(std::move(config)), tokenizer_(tokenizer) {
    if (const auto processor = root.find("post_processor")) read_post_processor(*processor, template_);
  }
  std::int32_t bos() const {
    if (const auto id = configured("bos_token")) return *id;
    if (template_.before) return required(*template_.before, root_.place() + ".post_processor");
    return customary({"<|begin_of_text|>", "<s>", "<bos>"});
  }
  bool adds_bos() const {
    const bool by_template = template_.before.has_value();
    return bos() >= 0 && (config_ ? config_->flag_at("add_bos_token", by_template) : by_template);
  }
  std::int32_t eos() const {
    std::int32_t id = configured("eos_token").value_or(-1);
    if (id < 0 && template_.after) id = required(*template_.after, root_.place() + ".post_processor");
    if (id < 0) id = customary({"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"});
    if (id >= 0) return id;
    user_error("{}: no token ends a text; name it as \"eos_token\" in the tokenizer_config.json beside it",
               root_.place());
  }

 private:
  std::int32_t id_of(std::string_view spelling) const {
    for (const AddedToken& token : tokenizer_.added) {
      if (token.content == spelling) return token.id;
    }
    const auto token = tokenizer_.model.vocabulary.find(std::string(spelling));
    return token == tokenizer_.model.vocabulary.end() ? -1 : token->second;
  }
  std::int32_t required(std::string_view spelling, const std::string& place) const {
    const std::int32_t id = id_of(spelling);
    if (id < 0) user_error("{}: '{}' is not a token of the tokenizer", place, spelling);
    return id;
  }
  std::int32_t customary(std::initializer_list<std::string_view> names) const {
    for (const std::string_view name : names) {
      if (const std::int32_t id = id_of(name); id >= 0) return id;
    }
    return -1;
  }
  /// A text or an object with "content"; null says that there is none, and an absent key nothing.
  std::optional<std::int32_t> configured(std::string_view key) const {
    if (!config_ || !config_->has(key)) return std::nullopt;
    const auto value = config_->find(key);
    if (!value) return -1;
    return required(value->is_text() ? value->text() : value->text_at("content"), value->place());
  }

  const JsonNode& root_;
  std::optional<JsonNode> config_;
  const TokenizerJson& tokenizer_;
  Template template_;
};

JsonNode parse(simdjson::dom::parser& parser, std::string_view text, const std::string& origin) {
  simdjson::dom::element element;
  if (const auto error = parser.parse(simdjson::padded_string(text)).get(element)) {
    user_error("{}: malformed JSON: {}", origin, simdjson::error_message(error));
  }
  return {element, origin};
}

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view text, std::string_view config, const std::string& origin) {
  simdjson::dom::parser parser, config_parser;
  const JsonNode root = parse(parser, text, origin);
  std::optional<JsonNode> config_root;
  if (!config.empty()) config_root = parse(config_parser, config, origin + "'s tokenizer_config.json");

  TokenizerJson tokenizer;
  tokenizer.model = ModelReader(root.at("model")).read();
  tokenizer.added = read_all_added(root, tokenizer.model);
  if (const auto node = root.find("normalizer")) read_normalizer(*node, tokenizer.normalizer);
  if (const auto node = root.find("pre_tokenizer")) {
    read_pretokenizer(*node, tokenizer.pretokenizer, tokenizer.model.byte_level);
  }
  read_decoder(root.at("decoder"), tokenizer.decoder);
  if (!tokenizer.model.byte_level && !tokenizer.model.ignore_merges && begins_words(kMetaspaceSign, tokenizer.model)) {
    tokenizer.pretokenizer.emplace_back(CutBefore{std::string(kMetaspaceSign)});
  }
  const Ends ends(root, config_root, tokenizer);
  tokenizer.bos = ends.bos();
  tokenizer.eos = ends.eos();
  tokenizer.adds_bos = ends.adds_bos();
  return tokenizer;
}

}  // namespace nibble::bpe
