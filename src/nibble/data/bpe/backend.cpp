// tokenizer.json behind the class Tokenizer: added tokens, normalisation, words, merges.
#include <simdjson.h>

#include <algorithm>
#include <utility>

#include "nibble/data/bpe/tokenizer_json.h"
#include "nibble/data/tokenizer.h"
#include "nibble/data/tokenizer_backend.h"
#include "nibble/data/utf8.h"

namespace nibble {

namespace {

constexpr std::size_t kOwnCacheBytes = 1 << 14;  // texts from which a cache of their own pays

std::vector<bpe::AddedToken> chosen(const std::vector<bpe::AddedToken>& tokens, const bpe::Normalizer* normalizer) {
  std::vector<bpe::AddedToken> result;
  for (bpe::AddedToken token : tokens) {
    if (token.normalized != (normalizer != nullptr)) continue;
    std::string buffer;
    if (normalizer != nullptr) token.content = std::string(normalizer->apply(token.content, buffer));
    result.push_back(std::move(token));
  }
  return result;
}

class BpeTokenizer final : public TokenizerBackend {
 public:
  explicit BpeTokenizer(bpe::TokenizerJson json)
      : bos_(json.bos),
        eos_(json.eos),
        adds_bos_(json.adds_bos),
        decoder_(std::move(json.decoder)),
        normalizer_(std::move(json.normalizer)),
        pretokenizer_(std::move(json.pretokenizer)),
        raw_tokens_(chosen(json.added, nullptr)),
        normalized_tokens_(chosen(json.added, &normalizer_)) {
    for (const auto& [spelling, id] : json.model.vocabulary) set_piece(id, spelling, false);
    for (const bpe::AddedToken& token : json.added) {
      std::string buffer;  // spelled as it is looked for, in the tokenizers library too
      set_piece(token.id, token.normalized ? normalizer_.apply(token.content, buffer) : token.content, token.special);
    }
    model_.emplace(std::move(json.model));
  }

  void append(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache) const override {
    std::string repaired;
    if (!simdjson::validate_utf8(text)) {
      repaired = repaired_utf8(text);
      text = repaired;
    }
    std::optional<WordCache> own_cache;
    if (cache == nullptr && text.size() >= kOwnCacheBytes) cache = &own_cache.emplace();
    bpe::Pretokenizer::Session session(pretokenizer_);
    bpe::Model::Scratch scratch;
    const bpe::Pretokenizer::Receiver on_word = [&](std::string_view word) { add_word(word, ids, cache, scratch); };
    std::string buffer;
    raw_tokens_.split(text, [&](std::string_view part, std::int32_t id) {
      if (id >= 0) return ids.push_back(id);
      const std::string_view normal = normalizer_.apply(part, buffer);
      const bool begins = part.data() == text.data();
      normalized_tokens_.split(normal, [&](std::string_view piece, std::int32_t added) {
        if (added >= 0) return ids.push_back(added);
        session.split(piece, begins && piece.data() == normal.data(), on_word);
      });
    });
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const std::int32_t id : ids) {
      const Piece& piece = pieces_[static_cast<std::size_t>(id)];
      if (!piece.special && !piece.spelling.empty()) tokens.push_back(piece.spelling);
    }
    return bpe::decode(decoder_, std::move(tokens));
  }
  std::int32_t vocab_size() const override { return static_cast<std::int32_t>(pieces_.size()); }
  std::int32_t bos_id() const override { return bos_; }
  std::int32_t eos_id() const override { return eos_; }
  bool adds_bos() const override { return adds_bos_; }
  std::string piece(std::int32_t id) const override { return pieces_[static_cast<std::size_t>(id)].spelling; }

 private:
  struct Piece {
    std::string spelling;
    bool special = false;
  };
  void set_piece(std::int32_t id, std::string_view spelling, bool special) {
    const auto index = static_cast<std::size_t>(id);
    if (index >= pieces_.size()) pieces_.resize(index + 1);
    pieces_[index] = {std::string(spelling), special};
  }
  void add_word(std::string_view word, std::vector<std::int32_t>& ids, WordCache* cache,
                bpe::Model::Scratch& scratch) const {
    const bool cached = cache != nullptr && word.size() <= WordCache::kMaxBytes;
    if (const auto* known = cached ? cache->find(word) : nullptr) {
      ids.insert(ids.end(), known->begin(), known->end());
      return;
    }
    const std::size_t before = ids.size();
    model_->encode(word, ids, scratch);
    if (cached) cache->insert(word, std::span(ids).subspan(before));
  }

  std::int32_t bos_, eos_;
  bool adds_bos_;
  std::vector<Piece> pieces_;  // by id
  std::vector<bpe::DecoderStep> decoder_;
  bpe::Normalizer normalizer_;
  bpe::Pretokenizer pretokenizer_;
  bpe::AddedTokens raw_tokens_, normalized_tokens_;
  std::optional<bpe::Model> model_;
};

}  // namespace

std::unique_ptr<TokenizerBackend> load_tokenizer_json(std::string_view text, std::string_view config,
                                                      const std::string& origin) {
  return std::make_unique<BpeTokenizer>(bpe::parse_tokenizer_json(text, config, origin));
}

}  // namespace nibble
