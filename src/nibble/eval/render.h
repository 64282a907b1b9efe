// Templates (eval/template.h) filled from rows of data.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "nibble/eval/template.h"

namespace nibble {

/// The text for a row. UserError, begun with `where` (file and line), for a field that is not there or holds no text.
std::string render(const Template& text, const nlohmann::json& row, const std::string& where);
/// As `render`; a template that is one placeholder and nothing else, whose field is a list, gives its elements.
std::vector<std::string> render_all(const Template& text, const nlohmann::json& row, const std::string& where);

}  // namespace nibble
