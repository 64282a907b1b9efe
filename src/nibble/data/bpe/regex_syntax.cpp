// From Oniguruma's syntax, as the tokenizers library uses it, to PCRE2's: what may not mean the same is refused.
#include <cctype>
#include <string>
#include <string_view>

#include "nibble/data/bpe/regex.h"
#include "nibble/data/utf8.h"
#include "nibble/tensor/error.h"

namespace nibble::bpe {

namespace {

// Unicode's White_Space. (PCRE2's \s has U+180E as well.)
constexpr std::string_view kSpace =
    "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
constexpr std::string_view kWord = "\\p{L}\\p{M}\\p{Nd}\\p{Pc}";

class Translator {
 public:
  Translator(std::string_view expression, const std::string& origin) : text_(expression), origin_(origin) {}

  std::string run() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        class_member(c);
      } else if (c == '[') {
        open_class();
      } else if (c == '(') {
        group();
      } else if (c == '{') {
        interval();
      } else if (c == '^' || c == '$') {
        refuse(text_.substr(at_, 1));
      } else {
        copy(1);
      }
    }
    if (in_class_) refuse("[ without ]");
    return out_;
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    user_error("{}: '{}' in the regular expression '{}' is not supported", origin_, what, text_);
  }
  bool next_is(std::string_view what) const { return text_.substr(at_).starts_with(what); }
  void copy(std::size_t n) {
    out_.append(text_.substr(at_, n));
    at_ += n;
  }
  /// Replaces the two characters of an escape.
  void put(std::string_view replacement) {
    out_.append(replacement);
    at_ += 2;
  }
  void put_class(std::string_view members, bool negated) {
    if (in_class_ && negated) refuse(text_.substr(at_, 2));
    put(in_class_ ? std::string(members) : (negated ? "[^" : "[") + std::string(members) + "]");
  }

  void escape() {
    if (at_ + 1 == text_.size()) refuse("\\");
    const char c = text_[at_ + 1];
    switch (c) {
      case 's':
      case 'S': return put_class(kSpace, c == 'S');
      case 'w':
      case 'W': return put_class(kWord, c == 'W');
      case 'd': return put("\\p{Nd}");
      case 'D': return put("\\P{Nd}");
      case 'v': return put("\\x0B");
      case 'p':
      case 'P': return property();
      case 'u':
      case 'x': return code_point(c);
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'a':
      case 'e': return copy(2);
      default: break;
    }
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) refuse(text_.substr(at_, 2));
    copy(1 + utf8_length(c));
  }

  /// General categories have one or two letters; longer names are those of scripts, without their extensions.
  void property() {
    const std::size_t close = text_.find('}', at_);
    if (!text_.substr(at_ + 2).starts_with('{') || close == std::string_view::npos) refuse(text_.substr(at_, 2));
    std::string_view name = text_.substr(at_ + 3, close - at_ - 3);
    out_.append(text_.substr(at_, 2)).append("{");
    if (name.starts_with('^')) {
      out_ += '^';
      name.remove_prefix(1);
    }
    out_.append(name.size() > 2 ? "sc:" : "").append(name).append("}");
    at_ = close + 1;
  }

  /// \xHH and \x{H...} of both, \uHHHH of Oniguruma. Above 7F two digits are a byte to one, a character to the other.
  void code_point(char kind) {
    std::string_view digits;
    std::size_t length = 0;
    if (kind == 'x' && text_.substr(at_ + 2).starts_with('{')) {
      const std::size_t close = std::min(text_.find('}', at_), text_.size());
      digits = text_.substr(at_ + 3, close - at_ - 3);
      length = close + 1 - at_;
    } else {
      digits = text_.substr(at_ + 2, kind == 'x' ? 2 : 4);
      length = 2 + (kind == 'x' ? 2 : 4);
      if (digits.size() + 2 != length || (kind == 'x' && digits[0] > '7')) refuse(text_.substr(at_, length));
    }
    for (const char d : digits) {
      if (std::isxdigit(static_cast<unsigned char>(d)) == 0) refuse(text_.substr(at_, length));
    }
    if (digits.empty() || digits.size() > 6) refuse(text_.substr(at_, length));
    out_.append("\\x{").append(digits).append("}");
    at_ += length;
  }

  void open_class() {
    in_class_ = true;
    copy(text_.substr(at_ + 1).starts_with('^') ? 2 : 1);
    if (next_is("]")) refuse("[]");
  }
  void class_member(char c) {
    if (c == '[') refuse("[ in [");  // a class in a class, and POSIX's [:alpha:]
    if (next_is("&&")) refuse("&&");
    if (c == ']') in_class_ = false;
    copy(1);
  }
  void group() {
    for (const std::string_view known : {"(?:", "(?i:", "(?-i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (next_is(known)) return copy(known.size());
    }
    if (next_is("(?") || next_is("(*")) refuse(text_.substr(at_, 3));
    copy(1);
  }
  /// {n}, {n,} and {n,m}. What may follow it, and {,m}, mean something else to each.
  void interval() {
    const std::size_t close = text_.find('}', at_);
    if (close == std::string_view::npos || next_is("{,")) refuse(text_.substr(at_, 2));
    copy(close + 1 - at_);
    if (next_is("+") || next_is("?")) refuse("}" + std::string(text_.substr(at_, 1)));
  }

  std::string_view text_;
  const std::string& origin_;
  std::string out_;
  std::size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

std::string to_pcre2(std::string_view expression, const std::string& origin) {
  return Translator(expression, origin).run();
}

}  // namespace nibble::bpe
