// Two kinds of failure. A UserError is a mistake the user can mend: one sentence that says what was wrong,
// where, and what to do; the command exits with 2. Anything else that is thrown is a failure of ours: exit 1.
#pragma once

// fmt 9 gives up constexpr under nvcc, but not the check of format strings, which needs it.
#if defined(__CUDACC__) && !defined(FMT_USE_CONSTEXPR)
#define FMT_USE_CONSTEXPR 1
#endif
#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace nibble {

class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

template <class... Args>
[[noreturn]] void user_error(fmt::format_string<Args...> format, Args&&... args) {
  throw UserError(fmt::format(format, std::forward<Args>(args)...));
}

/// A contract between two parts of nibble; holds in release builds too, so keep it out of inner loops.
template <class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw InternalError(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace nibble
