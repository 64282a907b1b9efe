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

bool is_too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxJsonDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

json parse_json(std::string_view text, std::string_view where) {
  if (is_too_deep(text)) user_error("{}: the JSON has more than {} levels", where, kMaxJsonDepth);
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
  } catch (const json::out_of_range&) {
    user_error("{}: the JSON holds a number that is too large", where);
  }
}

std::int64_t integer_at(const json& object, const char* key, std::string_view where) {
  if (!object.is_object() || !object.contains(key)) user_error("{}: '{}' is missing", where, key);
  const json& value = object[key];
  const bool fits =
      value.is_number_unsigned() ? value.get<std::uint64_t>() <= std::uint64_t{INT64_MAX} : value.is_number_integer();
  if (!fits) user_error("{}: '{}' is {}, must be an integer", where, key, value.dump());
  return value.get<std::int64_t>();
}

json read_json(const std::filesystem::path& path) { return parse_json(read_file(path), path.string()); }

void write_json_atomic(const std::filesystem::path& path, const json& value) {
  write_file_atomic(path, value.dump(2) + "\n");
}

}  // namespace nibble
