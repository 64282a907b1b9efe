// Libraries that are opened when they are first needed, so that the program starts on a machine without them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace nibble {

class SharedLibrary {
 public:
  /// Who finds the library's names: we alone, or also libraries that are opened later (plug-ins of the library).
  enum class Names : std::uint8_t { ByUs, ByAll };

  /// Opens the first of `names` that can be opened. Throws UserError, which says what is missing and that `what` needs
  /// it, when none can.
  SharedLibrary(const char* what, std::initializer_list<const char*> names, Names seen = Names::ByUs);
  /// The address of a function; throws UserError for a library too old to have it.
  template <class Function>
  Function function(const char* name) const {
    return reinterpret_cast<Function>(address(name));
  }
  /// The address of a variable; throws as `function` does.
  void* variable(const char* name) const { return address(name); }
  /// Whether one of `names` can be opened.
  static bool available(std::initializer_list<const char*> names);

 private:
  void* address(const char* name) const;
  std::string name_;
  void* handle_ = nullptr;
};

}  // namespace nibble
