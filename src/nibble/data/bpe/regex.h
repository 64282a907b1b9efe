// Regular expressions of tokenizer.json, which are Oniguruma's, run by PCRE2 with its compiler to machine code.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace nibble::bpe {

/// A compiled expression; several threads may search with it, each through a Matcher of its own.
class Regex {
 public:
  /// An expression in the syntax that both libraries share: literals, ., classes with \s \d \w \p{..} and ranges,
  /// groups (?: and (?i:, look-around, alternatives, quantifiers. UserError, which names `origin`, for a construct that
  /// means something else to Oniguruma (^ $ \b \h, nested classes, inline flags for the rest of the pattern) or nothing
  /// to PCRE2. \s is Unicode's White_Space, \w is L, M, Nd and Pc, \d is Nd, as in Oniguruma. Properties are those of
  /// PCRE2's Unicode version: 14 in PCRE2 10.40 to 10.42.
  static Regex pattern(std::string_view expression, const std::string& origin);
  /// An expression that matches `text` and nothing else.
  static Regex literal(std::string_view text);

  /// Searches; holds what a search needs, so that searching allocates nothing.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    ~Matcher();
    Matcher(Matcher&&) noexcept;
    /// The first match [begin, end) in valid UTF-8 at or after `from`, where the last match ended; false when there is
    /// none. Where an empty one follows it at once, the search goes on behind the next character, as Oniguruma's does.
    /// UserError for an expression that backtracks without end.
    bool find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end);

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct Code;
  explicit Regex(std::shared_ptr<const Code> code);
  static Regex compile(std::string_view expression, unsigned options, std::string_view shown,
                       const std::string& origin);
  std::shared_ptr<const Code> code_;
};

/// The expression as PCRE2 must read it to mean what it means to Oniguruma; what Regex::pattern compiles.
std::string to_pcre2(std::string_view expression, const std::string& origin);

}  // namespace nibble::bpe
