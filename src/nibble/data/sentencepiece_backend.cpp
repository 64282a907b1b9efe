#include <sentencepiece_processor.h>

#include <nlohmann/json.hpp>

#include "nibble/data/tokenizer.h"
#include "nibble/data/tokenizer_backend.h"
#include "nibble/data/utf8.h"
#include "nibble/data/word_boundaries.h"
#include "nibble/io/json.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr std::string_view kNewlinePiece = "<n>";
constexpr std::size_t kSegmentBytes = 4096;  // long enough to hide the cost of a call

class SentencePiece final : public TokenizerBackend {
 public:
  SentencePiece(std::string_view model, bool asks_for_bos, const std::string& origin) {
    const auto status = processor_.LoadFromSerializedProto(model);
    if (!status.ok() || processor_.GetPieceSize() == 0) {
      user_error("'{}' is not a SentencePiece model and no JSON; give the .model file or the tokenizer.json", origin);
    }
    if (processor_.eos_id() < 0) {
      user_error("the tokenizer '{}' has no end-of-sentence piece </s>; train it with one", origin);
    }
    has_newline_piece_ = !processor_.IsUnknown(processor_.PieceToId(kNewlinePiece));
    independent_words_ = words_are_independent(model);
    adds_bos_ = asks_for_bos && processor_.bos_id() >= 0;
  }
  void append(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::int32_t vocab_size() const override { return processor_.GetPieceSize(); }
  std::int32_t bos_id() const override { return processor_.bos_id(); }
  std::int32_t eos_id() const override { return processor_.eos_id(); }
  bool adds_bos() const override { return adds_bos_; }
  std::string piece(std::int32_t id) const override { return processor_.IdToPiece(id); }

 private:
  void append_segment(std::string_view segment, bool first, std::vector<std::int32_t>& ids) const;
  sentencepiece::SentencePieceProcessor processor_;
  bool has_newline_piece_ = false;
  bool independent_words_ = false;
  bool adds_bos_ = false;
};

/// What tokenizer_config.json says; the model itself says nothing of it.
bool asks_for_bos(std::string_view config, const std::string& origin) {
  if (config.empty()) return false;
  const std::string place = origin + "'s tokenizer_config.json";
  const nlohmann::json json = parse_json(config, place);
  const auto value = json.is_object() ? json.find("add_bos_token") : json.end();
  if (value == json.end() || value->is_null()) return false;
  if (!value->is_boolean()) user_error("{}.add_bos_token: not true or false", place);
  return value->get<bool>();
}

/// Encodes a run of words. Any but the first begins with a space, which stands for the one that SentencePiece adds.
void SentencePiece::append_segment(std::string_view segment, bool first, std::vector<std::int32_t>& ids) const {
  if (!first) segment.remove_prefix(1);
  std::vector<int> encoded;
  const bool replace = has_newline_piece_ && segment.find('\n') != std::string_view::npos;
  const auto status = replace ? processor_.Encode(replace_all(segment, "\n", kNewlinePiece), &encoded)
                              : processor_.Encode(segment, &encoded);
  require(status.ok(), "SentencePiece cannot encode: {}", status.message());
  ids.insert(ids.end(), encoded.begin(), encoded.end());
}

void SentencePiece::append(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache) const {
  // SentencePiece's time and memory grow faster than the text: long texts are cut even when nothing is cached.
  const std::size_t min_bytes = cache == nullptr ? kSegmentBytes : 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = independent_words_ ? next_word(text, begin + min_bytes) : text.size();
    const std::string_view segment = text.substr(begin, end - begin);
    // The first word has no space of its own, so it is encoded differently from the same word elsewhere.
    const bool cached = cache != nullptr && begin > 0 && segment.size() <= WordCache::kMaxBytes;
    const std::vector<std::int32_t>* known = cached ? cache->find(segment) : nullptr;
    if (known != nullptr) {
      ids.insert(ids.end(), known->begin(), known->end());
    } else {
      const std::size_t before = ids.size();
      append_segment(segment, begin == 0, ids);
      if (cached) cache->insert(segment, std::span(ids).subspan(before));
    }
    begin = end;
  }
}

std::string SentencePiece::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  require(status.ok(), "SentencePiece cannot decode: {}", status.message());
  return has_newline_piece_ ? replace_all(text, kNewlinePiece, "\n") : text;
}

}  // namespace

std::unique_ptr<TokenizerBackend> load_sentencepiece(std::string_view model, std::string_view config,
                                                     const std::string& origin) {
  return std::make_unique<SentencePiece>(model, asks_for_bos(config, origin), origin);
}

}  // namespace nibble
