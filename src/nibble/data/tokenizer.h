// SentencePiece tokenizer (Kudo & Richardson 2018) in the conventions of Llama 2: ids 0, 1, 2 are <unk>, <s>, </s>,
// unknown characters fall back to bytes.
//
// A document is one line to the model. Where the vocabulary has the piece `<n>`, every newline is replaced by it;
// decoding turns it back (so a literal "<n>" in a text comes back as a newline). A model without that piece, such as
// Llama's, gets the text as it is and encodes newlines as it was trained to.
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
  /// A .model file of SentencePiece; UserError when it is not one or has no </s>.
  static Tokenizer load(const std::filesystem::path& path);
  /// BPE with byte fallback, every digit a piece of its own, no normalisation: white space is kept as it is. The result
  /// depends on the text and the options alone. UserError when the text is too little for the vocabulary.
  static Tokenizer train(const TokenizerTraining& options);
  void save(const std::filesystem::path& path) const;

  /// Ids of the text, with neither <s> nor </s>.
  std::vector<std::int32_t> encode(std::string_view text) const;
  /// Appends the ids of a document and </s>; training data is a sequence of these. With a cache, of which each thread
  /// has its own, the same ids several times faster.
  void encode_document(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache = nullptr) const;
  /// Control pieces decode to nothing. UserError for an id outside [0, vocab_size).
  std::string decode(std::span<const std::int32_t> ids) const;

  std::int32_t vocab_size() const;
  std::int32_t bos_id() const;  ///< -1 if the model has no <s>
  std::int32_t eos_id() const;
  std::string piece(std::int32_t id) const;
  /// XXH3-64 of the model file; token shards carry it.
  std::uint64_t hash() const;

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  static Tokenizer from_model(std::string model, const std::string& origin);
  void append(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache) const;
  void append_segment(std::string_view segment, bool first, std::vector<std::int32_t>& ids) const;
  void check_id(std::int32_t id) const;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
