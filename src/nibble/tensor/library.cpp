#include "nibble/tensor/library.h"

#include <dlfcn.h>

#include "nibble/tensor/error.h"

namespace nibble {

namespace {

void* open_first(std::initializer_list<const char*> names, int seen) {
  for (const char* name : names) {
    if (void* handle = dlopen(name, RTLD_NOW | seen)) return handle;
  }
  return nullptr;
}

}  // namespace

SharedLibrary::SharedLibrary(const char* what, std::initializer_list<const char*> names, Names seen)
    : name_(*names.begin()), handle_(open_first(names, seen == Names::ByAll ? RTLD_GLOBAL : RTLD_LOCAL)) {
  if (handle_ == nullptr) {
    const char* reason = dlerror();
    user_error("{} needs {}, which cannot be opened ({}): install it, or add its folder to LD_LIBRARY_PATH", what,
               name_, reason == nullptr ? "unknown reason" : reason);
  }
}

bool SharedLibrary::available(std::initializer_list<const char*> names) {
  return open_first(names, RTLD_LOCAL) != nullptr;
}

void* SharedLibrary::address(const char* name) const {
  void* found = dlsym(handle_, name);
  if (found == nullptr) user_error("{} has no {}: a newer version is needed", name_, name);
  return found;
}

}  // namespace nibble
