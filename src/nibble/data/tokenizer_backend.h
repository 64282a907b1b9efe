// What stands behind a Tokenizer: one kind of model file. Not for use outside data/.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

class WordCache;

/// Every function may be called from several threads at once.
class TokenizerBackend {
 public:
  virtual ~TokenizerBackend() = default;
  /// Appends the ids of `text`; with a cache, of which each thread has its own, the same ids faster.
  virtual void append(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache) const = 0;
  /// `ids` lie in [0, vocab_size).
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  virtual std::int32_t vocab_size() const = 0;
  virtual std::int32_t bos_id() const = 0;  ///< -1 if there is none
  virtual std::int32_t eos_id() const = 0;
  virtual bool adds_bos() const { return false; }
  virtual std::string piece(std::int32_t id) const = 0;
};

/// A SentencePiece .model; UserError, which names `origin`, when it is not one or has no </s>. `config` is the text of
/// the tokenizer_config.json beside it, or empty.
std::unique_ptr<TokenizerBackend> load_sentencepiece(std::string_view model, std::string_view config,
                                                     const std::string& origin);

/// A tokenizer.json (data/bpe/tokenizer_json.h).
std::unique_ptr<TokenizerBackend> load_tokenizer_json(std::string_view text, std::string_view config,
                                                      const std::string& origin);

}  // namespace nibble
