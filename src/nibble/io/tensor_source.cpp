#include "nibble/io/tensor_source.h"

#include "nibble/io/suggest.h"
#include "nibble/tensor/error.h"

namespace nibble {

void no_such_tensor(const std::filesystem::path& path, const std::string& name, const std::vector<std::string>& names) {
  user_error("'{}' has no tensor '{}'{}", path.string(), name, did_you_mean(name, names));
}

}  // namespace nibble
