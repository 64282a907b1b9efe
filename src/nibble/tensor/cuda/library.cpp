#include "nibble/tensor/cuda/library.h"

#include <dlfcn.h>

#include "nibble/tensor/error.h"

namespace nibble::cuda {

namespace {

void* open_first(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return handle;
  }
  return nullptr;
}

}  // namespace

SharedLibrary::SharedLibrary(const char* what, std::initializer_list<const char*> names)
    : name_(*names.begin()), handle_(open_first(names)) {
  if (handle_ == nullptr) {
    const char* reason = dlerror();
    user_error("{} needs {}, which cannot be opened ({}): install it, or add its folder to LD_LIBRARY_PATH", what,
               name_, reason == nullptr ? "unknown reason" : reason);
  }
}

bool SharedLibrary::available(std::initializer_list<const char*> names) { return open_first(names) != nullptr; }

void* SharedLibrary::address(const char* name) const {
  void* found = dlsym(handle_, name);
  if (found == nullptr) user_error("{} has no function {}: a newer version is needed", name_, name);
  return found;
}

}  // namespace nibble::cuda
