#include "nibble/eval/text_rules.h"

#include <locale.h>
#include <wctype.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "nibble/data/utf8.h"
#include "nibble/io/format.h"
#include "nibble/io/suggest.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

struct Character {
  char32_t code = 0;
  std::size_t bytes = 1;
  bool valid = false;
};

/// The character at the beginning of a text that is not empty; a byte that begins none counts as one.
Character first_character(std::string_view text) {
  const std::size_t bytes = well_formed_utf8(text);
  if (bytes == 0) return {};
  return {utf8_code_point(text), bytes, true};
}

// str.isspace: bidirectional type WS, B or S, or category Zs (Unicode 15).
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// The C library's tables, whatever locale the program runs in.
class CaseTables {
 public:
  CaseTables() : locale_(newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {
    require(locale_ != nullptr, "this machine has no locale C.UTF-8");
  }
  ~CaseTables() { freelocale(locale_); }
  CaseTables(const CaseTables&) = delete;
  CaseTables& operator=(const CaseTables&) = delete;
  char32_t lower(char32_t c) const { return static_cast<char32_t>(towlower_l(static_cast<wint_t>(c), locale_)); }
  char32_t upper(char32_t c) const { return static_cast<char32_t>(towupper_l(static_cast<wint_t>(c), locale_)); }

 private:
  locale_t locale_;
};

const CaseTables& case_tables() {
  static const CaseTables tables;
  return tables;
}

std::size_t leading_space_bytes(std::string_view text) {
  std::size_t bytes = 0;
  while (bytes < text.size()) {
    const Character c = first_character(text.substr(bytes));
    if (!c.valid || !is_space(c.code)) break;
    bytes += c.bytes;
  }
  return bytes;
}

/// Where the last character begins.
std::size_t last_character(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while (begin > 0 && text.size() - begin < 4 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return first_character(text.substr(begin)).bytes == text.size() - begin ? begin : text.size() - 1;
}

std::string_view strip_left(std::string_view text) { return text.substr(leading_space_bytes(text)); }
std::string_view strip_right(std::string_view text) { return text.substr(0, text.size() - trailing_space_bytes(text)); }

std::string capitalize(std::string_view text) {
  std::string out;
  for (bool first = true; !text.empty(); first = false) {
    const Character c = first_character(text);
    if (c.valid) {
      append_utf8(first ? case_tables().upper(c.code) : case_tables().lower(c.code), out);
    } else {
      out.push_back(text.front());
    }
    text.remove_prefix(c.bytes);
  }
  return out;
}

std::string lower_first(std::string_view text) {
  if (text.empty()) return {};
  const Character c = first_character(text);
  if (!c.valid) return std::string(text);
  std::string out;
  append_utf8(case_tables().lower(c.code), out);
  return out.append(text.substr(c.bytes));
}

/// Removes [...] within a line: the expression \[.*?\] .
std::string without_tags(std::string_view text) {
  std::string out;
  std::size_t begin = 0;
  for (std::size_t open; (open = text.find('[', begin)) != std::string_view::npos;) {
    const std::size_t end = std::min(text.find_first_of("]\n", open), text.size());
    const bool tag = end < text.size() && text[end] == ']';
    // Where the line ends without "]", no other "[" of it opens a tag either.
    out.append(text, begin, (tag ? open : end) - begin);
    begin = tag ? end + 1 : end;
  }
  return out.append(text, begin);
}

std::string hellaswag(std::string_view text) {
  return replace_all(without_tags(replace_all(strip_left(strip_right(text)), " [title]", ". ")), "  ", " ");
}

/// What stands between `open` and the next `close` loses the white space at its ends: the expressions
/// \(\s*([^\)]*?)\s*\) and their like.
std::string tighten(std::string_view text, char open, char close) {
  std::string out;
  std::size_t begin = 0;
  for (std::size_t at; (at = text.find(open, begin)) != std::string_view::npos;) {
    const std::size_t end = text.find(close, at + 1);
    if (end == std::string_view::npos) break;
    out.append(text, begin, at + 1 - begin).append(strip_left(strip_right(text.substr(at + 1, end - at - 1)))) += close;
    begin = end + 1;
  }
  return out.append(text, begin);
}

/// The harness's rule for "/' 5/", whose replacement is a literal text.
std::string replace_slashed_digits(std::string_view text) {
  std::string out;
  std::size_t begin = 0;
  for (std::size_t at; (at = text.find("/' ", begin)) != std::string_view::npos;) {
    const bool found = at + 4 < text.size() && text[at + 3] >= '0' && text[at + 3] <= '9' && text[at + 4] == '/';
    out.append(text, begin, at - begin).append(found ? "/'[0-9]/" : "/");
    begin = found ? at + 5 : at + 1;
  }
  return out.append(text, begin);
}

std::string wikitext(std::string_view page) {
  std::string text = replace_slashed_digits(replace_all(page, "s '", "s'"));
  const auto replace = [&](std::initializer_list<std::pair<std::string_view, std::string_view>> pairs) {
    for (const auto& [from, to] : pairs) text = replace_all(text, from, to);
  };
  replace({{" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."}});
  replace({{" : ", ": "}, {" ; ", "; "}, {" . ", ". "}, {" ! ", "! "}, {" ? ", "? "}, {" , ", ", "}});
  for (const char* pair : {"()", "[]", "{}", "\"\"", "''"}) text = tighten(text, pair[0], pair[1]);
  replace({{"= = = =", "===="}, {"= = =", "==="}, {"= =", "=="}});
  replace({{" \xC2\xB0 ", "\xC2\xB0"}, {" \n", "\n"}, {"\n ", "\n"}, {" N ", " 1 "}, {" 's", "'s"}});
  return text;
}

std::size_t blank_of(std::string_view sentence) {
  const std::size_t at = sentence.find('_');
  if (at == std::string_view::npos) user_error("the sentence '{}' has no blank '_'", sentence);
  return at;
}

}  // namespace

TextRule text_rule(const std::string& name, const std::string& where) {
  static const std::vector<std::pair<const char*, TextRule>> rules = {
      {"strip", TextRule::Strip},
      {"strip_left", TextRule::StripLeft},
      {"strip_right", TextRule::StripRight},
      {"capitalize", TextRule::Capitalize},
      {"lower_first", TextRule::LowerFirst},
      {"drop_last", TextRule::DropLast},
      {"last_word", TextRule::LastWord},
      {"other_words", TextRule::OtherWords},
      {"before_blank", TextRule::BeforeBlank},
      {"after_blank", TextRule::AfterBlank},
      {"hellaswag", TextRule::HellaSwag},
      {"wikitext", TextRule::WikiText},
  };
  std::vector<std::string> known;
  for (const auto& [word, rule] : rules) {
    if (name == word) return rule;
    known.emplace_back(word);
  }
  user_error("{}: there is no text rule '{}' among {}{}", where, name, join_names(known), did_you_mean(name, known));
}

std::string apply_text_rule(TextRule rule, std::string_view text) {
  switch (rule) {
    case TextRule::Strip: return std::string(strip_left(strip_right(text)));
    case TextRule::StripLeft: return std::string(strip_left(text));
    case TextRule::StripRight: return std::string(strip_right(text));
    case TextRule::Capitalize: return capitalize(text);
    case TextRule::LowerFirst: return lower_first(text);
    case TextRule::DropLast: return std::string(text.empty() ? text : text.substr(0, last_character(text)));
    // Where there is no space, the search gives npos: npos + 1 is the beginning.
    case TextRule::LastWord: return std::string(text.substr(text.rfind(' ') + 1));
    case TextRule::OtherWords:
      return text.find(' ') == std::string_view::npos ? "" : std::string(text.substr(0, text.rfind(' ')));
    case TextRule::BeforeBlank: return std::string(text.substr(0, blank_of(text)));
    case TextRule::AfterBlank: return std::string(text.substr(blank_of(text) + 1));
    case TextRule::HellaSwag: return hellaswag(text);
    case TextRule::WikiText: return wikitext(text);
  }
  require(false, "a text rule without a definition");
  return {};
}

std::size_t trailing_space_bytes(std::string_view text) {
  std::size_t bytes = 0;
  while (bytes < text.size()) {
    const std::string_view rest = text.substr(0, text.size() - bytes);
    const std::size_t begin = last_character(rest);
    const Character c = first_character(rest.substr(begin));
    if (!c.valid || !is_space(c.code)) break;
    bytes += rest.size() - begin;
  }
  return bytes;
}

std::int64_t count_characters(std::string_view text) {
  std::int64_t count = 0;
  for (; !text.empty(); ++count) text.remove_prefix(first_character(text).bytes);
  return count;
}

std::int64_t count_words(std::string_view text) {
  std::int64_t words = 1;
  bool in_space = false;
  while (!text.empty()) {
    const Character c = first_character(text);
    const bool space = c.valid && is_space(c.code);
    if (space && !in_space) ++words;
    in_space = space;
    text.remove_prefix(c.bytes);
  }
  return words;
}

}  // namespace nibble
