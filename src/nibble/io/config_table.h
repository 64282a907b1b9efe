// ConfigTable: a TOML table read key by key. Every value that is wrong, missing or unknown becomes one sentence
// that names the file, the line, the key and what is allowed. Recipe, model and training files all go through it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nibble/tensor/error.h"

namespace nibble {

class ConfigTable {
 public:
  /// Parses a file; a syntax error names file and line.
  static ConfigTable parse_file(const std::filesystem::path& path);
  /// Parses text; `origin` stands for the file name in messages.
  static ConfigTable parse_text(std::string_view text, std::string origin);

  /// Applies an override "a.b.c=value"; the value is TOML, or a bare word that is taken as a string.
  void set(std::string_view assignment);

  /// Takes over from `base`, which is used up, whatever is absent here: of the tables named in `merged` key by key, of
  /// everything else the whole value. Messages about what was taken over name the file it stands in.
  void inherit(ConfigTable&& base, const std::vector<std::string>& merged);
  /// Removes a key of this table, if it is there.
  void erase(std::string_view key);

  bool has(std::string_view key) const;
  /// Whether the value is there and a string.
  bool holds_text(std::string_view key) const;
  /// The sub-table `key`, empty where it is absent.
  ConfigTable table(std::string_view key) const;
  /// The tables of an array of tables ([[key]]); none where it is absent.
  std::vector<ConfigTable> tables(std::string_view key) const;
  std::vector<std::string> keys() const;

  std::string text(std::string_view key) const;  ///< required
  std::string text(std::string_view key, std::string fallback) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const;  ///< required
  std::int64_t integer(std::string_view key, std::int64_t fallback, std::int64_t low, std::int64_t high) const;
  double number(std::string_view key, double fallback, double low, double high) const;
  /// As `number`; the value may also be a fraction in text, "96/17".
  double fraction(std::string_view key, double fallback, double low, double high) const;
  /// A string or an array of strings; empty where absent.
  std::vector<std::string> texts(std::string_view key) const;
  /// One of a set of names.
  template <class E>
  E choice(std::string_view key, E fallback, const std::vector<std::pair<const char*, E>>& names) const {
    if (!has(key)) return fallback;
    const std::string word = text(key);
    std::string allowed;
    for (const auto& [name, value] : names) {
      if (word == name) return value;
      allowed += (allowed.empty() ? "" : ", ") + std::string(name);
    }
    fail(key, fmt::format("'{}' is not one of {}", word, allowed));
  }

  /// Refuses keys that nobody asked for, with the nearest valid name. Call when all keys have been read.
  void finish() const;
  /// Throws UserError "FILE:LINE: key 'a.b': message".
  [[noreturn]] void fail(std::string_view key, const std::string& message) const;

  /// The table as TOML text, overrides included.
  std::string to_toml() const;

 private:
  struct State;
  ConfigTable() = default;
  ConfigTable at(std::string prefix) const;
  std::string full_key(std::string_view key) const;
  std::shared_ptr<State> state_;  // shared by all sub-tables: the parsed document and which keys were read
  std::string prefix_;
};

}  // namespace nibble
