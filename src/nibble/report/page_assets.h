// Style sheet and script of the report page.
#pragma once

#include <string_view>

namespace nibble {

std::string_view page_style();
std::string_view page_script();

}  // namespace nibble
