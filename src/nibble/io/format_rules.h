// The rules of a file format, held against one file.
#pragma once

#include <filesystem>
#include <utility>

#include "nibble/tensor/error.h"

namespace nibble {

/// `path` outlives it; `kind` is "GGUF file" or the like.
class FormatRules {
 public:
  FormatRules(const std::filesystem::path& path, const char* kind) : path_(path), kind_(kind) {}

  /// UserError "'PATH' is not a valid KIND: RULE" unless the rule holds.
  template <class... Args>
  void check(bool holds, fmt::format_string<Args...> rule, Args&&... args) const {
    if (holds) return;
    user_error("'{}' is not a valid {}: {}", path_.string(), kind_, fmt::format(rule, std::forward<Args>(args)...));
  }

 private:
  const std::filesystem::path& path_;
  const char* kind_;
};

}  // namespace nibble
