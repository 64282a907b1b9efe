// Lists of names in messages.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nibble {

/// "a, b, c"; "none" for an empty list.
inline std::string list_names(const std::vector<std::string>& names, std::string_view separator = ", ") {
  std::string out;
  for (const std::string& name : names) out.append(out.empty() ? "" : separator).append(name);
  return out.empty() ? "none" : out;
}

}  // namespace nibble
