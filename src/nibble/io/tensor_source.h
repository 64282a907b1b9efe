// Tensors by name that can be read as F32, wherever they are kept: weights of a model in a folder of safetensors
// (io/safetensors_folder.h) or in a GGUF file (model/gguf_model.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "nibble/tensor/tensor.h"

namespace nibble {

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  /// For messages.
  virtual const std::filesystem::path& path() const = 0;
  /// The tensors' names, sorted.
  virtual std::vector<std::string> names() const = 0;
  virtual bool contains(const std::string& name) const = 0;
  /// UserError, with the nearest name, when there is no such tensor; so are the rest.
  virtual std::vector<std::int64_t> shape(const std::string& name) const = 0;
  /// The values as F32; `to` is on the CPU. UserError where they cannot be had, or for another shape than that of `to`.
  virtual void read_floats(const std::string& name, const Tensor& to) const = 0;
  /// The tensor's bytes where it is kept as `dtype`, row-major; else empty.
  virtual std::span<const std::byte> bytes_as(DType dtype, const std::string& name) const = 0;
};

/// The UserError for a tensor that the file or folder `path` does not have, with the nearest of those that it has.
[[noreturn]] void no_such_tensor(const std::filesystem::path& path, const std::string& name,
                                 const std::vector<std::string>& names);

}  // namespace nibble
