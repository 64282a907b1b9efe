// Tokens that stand in a text as they are spelled, such as <|endoftext|>: found before anything else happens to it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nibble::bpe {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool special = false;      ///< decodes to nothing
  bool normalized = false;   ///< looked for in the normalised text, spelled as normalisation spells it
  bool single_word = false;  ///< only where no letter, digit or the like touches it
  bool lstrip = false;       ///< swallows the white space before it
  bool rstrip = false;       ///< swallows the white space after it
};

class AddedTokens {
 public:
  /// Of tokens with the same content the first is found.
  explicit AddedTokens(std::vector<AddedToken> tokens);
  AddedTokens(AddedTokens&&) = default;

  /// Receives the parts of a text from left to right: a token's id, or -1 with a text that is not empty.
  using Receiver = std::function<void(std::string_view part, std::int32_t id)>;
  /// Cuts valid UTF-8 at the tokens: the leftmost first, of those that begin at one place the longest.
  void split(std::string_view text, const Receiver& receive) const;

 private:
  const AddedToken* longest_at(std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string_view, const AddedToken*> by_content_;  // views of tokens_
  std::array<std::vector<std::size_t>, 256> lengths_;                   // by first byte, longest first
};

}  // namespace nibble::bpe
