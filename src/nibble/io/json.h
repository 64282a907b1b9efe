// JSON files.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace nibble {

/// Parses JSON text; `where` names it in messages. UserError for malformed text (with its position) and for an object
/// that has one key twice.
nlohmann::json parse_json(std::string_view text, std::string_view where);

/// parse_json of a file.
nlohmann::json read_json(const std::filesystem::path& path);

/// Writes the value, indented, and a final newline; all or nothing (io/atomic_file.h).
void write_json_atomic(const std::filesystem::path& path, const nlohmann::json& value);

}  // namespace nibble
