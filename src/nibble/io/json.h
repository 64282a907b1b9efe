// JSON files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace nibble {

/// Arrays and objects inside one another that are read: writing or copying a value recurses, and the stack is finite.
inline constexpr int kMaxJsonDepth = 512;

/// Parses JSON text; `where` names it in messages. UserError for malformed text (with its position), for a number that
/// no double holds, for an object that has one key twice and for more than kMaxJsonDepth levels.
nlohmann::json parse_json(std::string_view text, std::string_view where);

/// Whether JSON text has more than kMaxJsonDepth levels, for those who parse it themselves.
bool is_too_deep(std::string_view text);

/// The integer object[key]; `where` names the file in messages. UserError where it is missing, a number with a fraction
/// or an exponent, or beyond 64 bits, which the JSON library would convert in one way or another.
std::int64_t integer_at(const nlohmann::json& object, const char* key, std::string_view where);

/// parse_json of a file.
nlohmann::json read_json(const std::filesystem::path& path);

/// Writes the value, indented, and a final newline; all or nothing (io/atomic_file.h).
void write_json_atomic(const std::filesystem::path& path, const nlohmann::json& value);

}  // namespace nibble
