// Templates of task files: text with placeholders that a data row fills (eval/render.h).
//
//   "Question: {{question}}\nAnswer:"      a field
//   "{{choices.text}}"                     a field of a field: here a list
//   "{{options.0}}"                        an element of a list, counted from 0
//   "{{premise | strip | drop_last}}"      with text rules (eval/text_rules.h), from left to right; of a list: each
//                                          element
//
// Numbers are written as JSON has them, true and false as such. White space inside the braces has no meaning.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "nibble/eval/text_rules.h"

namespace nibble {

class Template {
 public:
  /// UserError, begun with `where`, for braces that do not close and for rules that are not known.
  Template(std::string_view text, const std::string& where);

  struct Piece {
    std::string literal;            ///< before the placeholder
    std::vector<std::string> path;  ///< empty: no placeholder follows
    std::vector<TextRule> rules;
  };
  const std::vector<Piece>& pieces() const { return pieces_; }

 private:
  std::vector<Piece> pieces_;
};

}  // namespace nibble
