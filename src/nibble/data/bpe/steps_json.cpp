#include "nibble/data/bpe/steps_json.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "nibble/data/bpe/word_patterns.h"
#include "nibble/data/utf8.h"

namespace nibble::bpe {

namespace {

[[noreturn]] void refuse(const JsonNode& node, std::string_view type) {
  user_error("{}: '{}' is not supported", node.place(), type);
}

/// {"String": "..."} or {"Regex": "..."}.
Regex read_pattern(const JsonNode& node) {
  if (const auto text = node.find("String")) return Regex::literal(text->text());
  return Regex::pattern(node.text_at("Regex"), node.place());
}

Replace read_replace(const JsonNode& node) {
  return {read_pattern(node.at("pattern")), std::string(node.text_at("content"))};
}

/// A text of one character.
std::string read_character(const JsonNode& node) {
  const std::string_view text = node.text();
  if (text.empty() || text.size() != utf8_length(text[0])) user_error("{}: not one character", node.place());
  return std::string(text);
}

Delimiter read_behavior(const JsonNode& node) {
  const std::string_view name = node.text();
  if (name == "Removed") return Delimiter::Removed;
  if (name == "Isolated") return Delimiter::Isolated;
  if (name == "MergedWithPrevious") return Delimiter::MergedWithPrevious;
  if (name == "MergedWithNext") return Delimiter::MergedWithNext;
  if (name == "Contiguous") return Delimiter::Contiguous;
  refuse(node, name);
}

/// The older form of the option is a flag.
Metaspace::Prepend read_prepend(const JsonNode& node) {
  const auto scheme = node.find("prepend_scheme");
  if (!node.flag_at("add_prefix_space", true)) return Metaspace::Prepend::Never;
  if (!scheme || scheme->text() == "always") return Metaspace::Prepend::Always;
  if (scheme->text() == "first") return Metaspace::Prepend::First;
  if (scheme->text() == "never") return Metaspace::Prepend::Never;
  refuse(*scheme, scheme->text());
}

}  // namespace

void read_normalizer(const JsonNode& node, std::vector<NormalizerStep>& steps) {
  const std::string_view type = node.text_at("type");
  if (type == "Sequence") {
    for (const JsonNode& step : node.at("normalizers").items()) read_normalizer(step, steps);
  } else if (type == "NFC") {
    steps.emplace_back(UnicodeForm::NFC);
  } else if (type == "NFD") {
    steps.emplace_back(UnicodeForm::NFD);
  } else if (type == "NFKC") {
    steps.emplace_back(UnicodeForm::NFKC);
  } else if (type == "NFKD") {
    steps.emplace_back(UnicodeForm::NFKD);
  } else if (type == "Lowercase") {
    steps.emplace_back(Lowercase{});
  } else if (type == "Prepend") {
    steps.emplace_back(Prepend{std::string(node.text_at("prepend"))});
  } else if (type == "Replace") {
    steps.emplace_back(read_replace(node));
  } else {
    refuse(node, type);
  }
}

void read_pretokenizer(const JsonNode& node, std::vector<PretokenizerStep>& steps, bool& byte_level) {
  const std::string_view type = node.text_at("type");
  if (type == "Sequence") {
    for (const JsonNode& step : node.at("pretokenizers").items()) read_pretokenizer(step, steps, byte_level);
    return;
  }
  if (byte_level) user_error("{}: '{}' after ByteLevel is not supported", node.place(), type);
  if (type == "ByteLevel") {
    byte_level = true;
    if (node.flag_at("add_prefix_space", true)) steps.emplace_back(PrefixSpace{});
    if (node.flag_at("use_regex", true)) steps.emplace_back(SplitStep{Regex::pattern(kGpt2Pattern, node.place())});
  } else if (type == "Split") {
    steps.emplace_back(
        SplitStep{read_pattern(node.at("pattern")), read_behavior(node.at("behavior")), node.flag_at("invert", false)});
  } else if (type == "Digits") {
    const bool individual = node.flag_at("individual_digits", false);
    steps.emplace_back(
        SplitStep{Regex::pattern("\\p{N}", node.place()), individual ? Delimiter::Isolated : Delimiter::Contiguous});
  } else if (type == "Metaspace") {
    const std::string sign = read_character(node.at("replacement"));
    // Each puts signs before the parts that others cut: with several, a text could double with every step.
    const auto is_metaspace = [](const PretokenizerStep& step) { return std::holds_alternative<Metaspace>(step); };
    if (std::any_of(steps.begin(), steps.end(), is_metaspace)) {
      user_error("{}: a second Metaspace is not supported", node.place());
    }
    steps.emplace_back(Metaspace{sign, read_prepend(node)});
    if (node.flag_at("split", true)) steps.emplace_back(SplitStep{Regex::literal(sign), Delimiter::MergedWithNext});
  } else {
    refuse(node, type);
  }
}

void read_decoder(const JsonNode& node, std::vector<DecoderStep>& steps) {
  const std::string_view type = node.text_at("type");
  if (type == "Sequence") {
    for (const JsonNode& step : node.at("decoders").items()) read_decoder(step, steps);
  } else if (type == "ByteLevel") {
    steps.emplace_back(DecodeByteLevel{});
  } else if (type == "ByteFallback") {
    steps.emplace_back(DecodeByteFallback{});
  } else if (type == "Fuse") {
    steps.emplace_back(Fuse{});
  } else if (type == "Strip") {
    const auto count = [&](std::string_view key) {
      const JsonNode value = node.at(key);
      if (value.integer() < 0) user_error("{}: {} is not a count", value.place(), value.integer());
      return static_cast<std::size_t>(value.integer());
    };
    steps.emplace_back(Strip{read_character(node.at("content")), count("start"), count("stop")});
  } else if (type == "Metaspace") {
    const bool prepended = read_prepend(node) != Metaspace::Prepend::Never;
    steps.emplace_back(DecodeMetaspace{read_character(node.at("replacement")), prepended});
  } else if (type == "Replace") {
    steps.emplace_back(read_replace(node));
  } else {
    refuse(node, type);
  }
}

}  // namespace nibble::bpe
