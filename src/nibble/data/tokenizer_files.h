// Which files of a folder are its tokenizer.
#pragma once

#include <filesystem>
#include <string>

namespace nibble {

/// tokenizer.json or else tokenizer.model; empty where the folder holds neither.
std::filesystem::path find_tokenizer_file(const std::filesystem::path& folder);

/// The text of the tokenizer_config.json beside a tokenizer's file, or "".
std::string tokenizer_config_beside(const std::filesystem::path& file);

}  // namespace nibble
