// The text rules that lm-evaluation-harness's tasks apply with Python's string methods and regular expressions, with
// the same results on UTF-8 text. Task files name them after a bar: "{{ctx_b | capitalize}}" (eval/template.h).
//
//   strip strip_left strip_right   without white space at the ends (Unicode's, as str.strip)
//   capitalize                     the first character in upper case, all others in lower case (str.capitalize)
//   lower_first                    the first character in lower case
//   drop_last                      without the last character
//   last_word, other_words         after the last space; before it (split(" ")[-1], split(" ")[:-1])
//   before_blank, after_blank      before, after the first "_" of a cloze sentence
//   hellaswag                      HellaSwag's clean-up: " [title]" becomes ". ", [tags] go, two spaces become one
//   wikitext                       WikiText's detokeniser: " @-@ " becomes "-", spaces before punctuation and inside
//                                  brackets and quotes go, ...
//
// Case is mapped character by character (Python's rules for several at once, such as the title case of U+00DF, are not
// followed).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nibble {

enum class TextRule : std::uint8_t {
  Strip,
  StripLeft,
  StripRight,
  Capitalize,
  LowerFirst,
  DropLast,
  LastWord,
  OtherWords,
  BeforeBlank,
  AfterBlank,
  HellaSwag,
  WikiText,
};

/// A rule by its name in task files; UserError, begun with `where`, for another one.
TextRule text_rule(const std::string& name, const std::string& where);

/// UserError where the rule wants something of the text that it has not (before_blank: a "_").
std::string apply_text_rule(TextRule rule, std::string_view text);

/// Bytes of white space at the end of the text, as str.rstrip takes them.
std::size_t trailing_space_bytes(std::string_view text);
/// Characters (code points), as len counts them; a byte that is no UTF-8 counts as one.
std::int64_t count_characters(std::string_view text);
/// len(re.split("\s+", text)): runs of white space, plus one.
std::int64_t count_words(std::string_view text);

}  // namespace nibble
