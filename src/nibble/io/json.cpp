#include "nibble/io/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "nibble/io/atomic_file.h"
#include "nibble/io/file.h"
#include "nibble/tensor/error.h"

namespace nibble {

using nlohmann::json;

json parse_json(std::string_view text, std::string_view where) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open, the innermost last
  const auto watch = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      user_error("{}: the key '{}' occurs twice in one object", where, parsed.get<std::string>());
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::parse_error& error) {
    user_error("{}: malformed JSON at byte {}", where, error.byte);
  }
}

json read_json(const std::filesystem::path& path) { return parse_json(read_file(path), path.string()); }

void write_json_atomic(const std::filesystem::path& path, const json& value) {
  write_file_atomic(path, value.dump(2) + "\n");
}

}  // namespace nibble
