// Byte-pair encoding (Sennrich et al. 2016) of one word by a given list of merges.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nibble::bpe {

struct Merge {
  std::int32_t left, right, result;  ///< ids
};

struct ModelConfig {
  std::unordered_map<std::string, std::int32_t> vocabulary;  ///< spelling -> id
  std::vector<Merge> merges;                                 ///< the first is applied first
  std::int32_t unknown = -1;                                 ///< id for characters without a token of their own
  bool fuse_unknown = false;                                 ///< one such id for several in a row
  bool byte_fallback = false;                                ///< "<0xE2>" and the like come before `unknown`
  bool ignore_merges = false;                                ///< a word that is in the vocabulary is that token
  bool byte_level = false;                                   ///< words are bytes, tokens spell them as GPT-2 does
};

/// How GPT-2's vocabularies spell a byte: a printable character of its own (Radford et al. 2019, bytes_to_unicode).
const std::array<std::string, 256>& byte_spellings();
/// The bytes that a spelling stands for, or false when it has a character that stands for none.
bool spelled_bytes(std::string_view spelling, std::string& bytes);

/// True when no merge makes a token in which `sign`, itself a token, follows something else: then a text may be cut
/// before each run of that sign without changing its ids.
bool begins_words(std::string_view sign, const ModelConfig& config);

class Model {
 public:
  explicit Model(ModelConfig config);

  /// Buffers of one thread.
  struct Scratch {
    struct Symbol {
      std::int32_t id;  ///< -1 when it was merged into its left neighbour
      std::int32_t previous, next;
    };
    struct Candidate {
      std::uint32_t rank;
      std::int32_t position, left, right, result;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  /// Appends the ids of a word: valid UTF-8, or any bytes with byte_level. Of all merges of two neighbours the one that
  /// comes first in the list is applied, of equal ones the leftmost, until there is none: O(n log n). A character with
  /// neither token, bytes nor unknown token is left out, as the tokenizers library does it.
  void encode(std::string_view word, std::vector<std::int32_t>& ids, Scratch& scratch) const;

 private:
  /// Open addressing: what the pair of two ids merges to.
  class MergeTable {
   public:
    struct Entry {
      std::uint64_t pair = UINT64_MAX;
      std::uint32_t rank = 0;
      std::int32_t result = 0;
    };
    explicit MergeTable(const std::vector<Merge>& merges);
    /// Null when they do not merge.
    const Entry* find(std::int32_t left, std::int32_t right) const;

   private:
    std::size_t slot(std::uint64_t pair) const;
    std::vector<Entry> entries_;
    int shift_ = 0;
  };

  void add_unknown(std::string_view spelling, Scratch& scratch) const;
  void split(std::string_view word, Scratch& scratch) const;
  void consider(std::int32_t position, Scratch& scratch) const;
  void merge(Scratch& scratch) const;

  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::int32_t find(std::string_view word) const;
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>>
      words_;                               // tokens as words come: bytes if byte_level
  std::array<std::int32_t, 256> bytes_;     // of words of one byte; -1: none
  std::array<std::int32_t, 256> fallback_;  // of "<0xE2>"; -1: none
  MergeTable merges_;
  std::int32_t unknown_;
  bool fuse_unknown_, byte_fallback_, ignore_merges_, byte_level_;
};

}  // namespace nibble::bpe
