// Text to token ids and back, by one of two kinds of file; which one it is, the content says.
//
// SentencePiece's .model (Kudo & Richardson 2018), in the conventions of Llama 2: ids 0, 1, 2 are <unk>, <s>, </s>,
// unknown characters fall back to bytes, control pieces that stand in a text are text. A document is one line to the
// model. Where the vocabulary has the piece `<n>`, every newline is replaced by it; decoding turns it back, so a
// literal "<n>" in a text comes back as a newline. A model without that piece, such as Llama's, gets the text as it is
// and encodes newlines as it was trained to.
//
// Hugging Face's tokenizer.json with byte-pair encoding (data/bpe/tokenizer_json.h says what of it), such as GPT-2's,
// Llama 3's, Qwen's and SmolLM's, and Llama 2's in that form. Ids are those of Python's `tokenizers` with
// add_special_tokens=False and neither truncation nor padding, for text.decode("utf-8", "replace"): each maximal part
// that is not UTF-8 counts as U+FFFD. Special tokens that stand in a text, such as <|endoftext|>, are themselves.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "nibble/data/text_reader.h"

namespace nibble {

class TokenizerBackend;

struct TokenizerTraining {
  std::vector<std::string> inputs;  ///< as TextReader takes them
  ReaderOptions reader;
  int vocab_size = 32000;  ///< all pieces: 3 control, 256 bytes, the user-defined and the learnt ones
  double character_coverage = 0.9999;
  std::vector<std::string> user_defined_pieces = {"<n>"};
  /// The model is trained on the lines of the documents; of more than this many, a seeded uniform sample is taken.
  std::int64_t max_lines = 1'000'000;
  std::uint64_t seed = 1;
  int threads = 1;
};

/// Words that were encoded before, by one tokenizer in one thread.
class WordCache {
 public:
  static constexpr std::size_t kMaxBytes = 64;  ///< longer words seldom come again, and are not to be inserted
  /// The ids of a word, or nullptr.
  const std::vector<std::int32_t>* find(std::string_view word) const;
  void insert(std::string_view word, std::span<const std::int32_t> ids);

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
  };
  std::unordered_map<std::string, std::vector<std::int32_t>, Hash, std::equal_to<>> words_;
};

/// Encoding and decoding may be called from several threads at once.
class Tokenizer {
 public:
  /// A file, or a folder that holds tokenizer.json or else tokenizer.model. Where tokenizer_config.json lies beside a
  /// tokenizer.json, it says which tokens begin and end a text. UserError when the file is neither kind or asks for
  /// what is not supported, and when no token ends a text.
  static Tokenizer load(const std::filesystem::path& path);
  /// The content of a file, and of the tokenizer_config.json beside it, or ""; `origin` names them in messages.
  static Tokenizer parse(std::string file, const std::string& config, const std::string& origin);
  /// BPE with byte fallback, every digit a piece of its own, no normalisation: white space is kept as it is. The result
  /// depends on the text and the options alone. UserError when the text is too little for the vocabulary.
  static Tokenizer train(const TokenizerTraining& options);
  /// The file as it was read.
  void save(const std::filesystem::path& path) const;
  /// Writes what `load` of the folder needs: tokenizer.model, or tokenizer.json and a tokenizer_config.json with its
  /// two ends. Returns the file's name.
  std::string save_in(const std::filesystem::path& directory) const;

  /// Ids of the text, with neither beginning nor end.
  std::vector<std::int32_t> encode(std::string_view text) const;
  /// The same, appended. With a cache, of which each thread has its own, the same ids several times faster.
  void encode(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache) const;
  /// Appends the ids of a document and eos_id(); training data is a sequence of these.
  void encode_document(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache = nullptr) const;
  /// Control pieces and special tokens decode to nothing; tokens that end within a character give a part of it.
  /// UserError for an id outside [0, vocab_size).
  std::string decode(std::span<const std::int32_t> ids) const;

  std::int32_t vocab_size() const;  ///< the largest id and one
  std::int32_t bos_id() const;      ///< <s> or the like; -1 if there is none
  std::int32_t eos_id() const;      ///< </s> or the like
  /// Whether Python's tokenizers begin a text with bos_id() unasked: what "add_bos_token" of tokenizer_config.json
  /// says, else a tokenizer.json's template. `encode` never does.
  bool adds_bos() const;
  /// The token as the vocabulary spells it; empty for an id that no token has.
  std::string piece(std::int32_t id) const;
  /// The first id whose piece is `spelling`; -1 if there is none. Looks through the whole vocabulary.
  std::int32_t find_piece(std::string_view spelling) const;
  /// XXH3-64 of the file; token shards carry it.
  std::uint64_t hash() const { return hash_; }

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

 private:
  Tokenizer(std::string file, std::unique_ptr<const TokenizerBackend> backend);
  void check_id(std::int32_t id) const;
  std::string file_;
  std::uint64_t hash_;
  std::unique_ptr<const TokenizerBackend> backend_;
};

}  // namespace nibble
