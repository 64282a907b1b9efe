// A safetensors file, and every tensor of it in every way that a tensor is read.
#include "nibble/io/safetensors.h"

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"

namespace nibble::fuzz {

namespace {

/// What the caller allocates, by the shape that the file states and that its data bears out.
OwnedTensor destination(DType dtype, const SafetensorsEntry& entry) {
  return OwnedTensor(dtype, entry.shape.empty() ? std::vector<std::int64_t>{1} : entry.shape);
}

}  // namespace

void read_input(std::string_view bytes) {
  static MemoryFile file;
  const SafetensorsFile tensors(file.hold(bytes));
  std::size_t covered = 0;
  for (const auto& named : tensors.entries()) {
    const std::string& name = named.first;
    const SafetensorsEntry& entry = named.second;
    covered += entry.bytes.size();
    attempt([&] { check(tensors.view(name).bytes() == entry.bytes.size(), "a view has the tensor's bytes"); });
    if (entry.shape.size() > Tensor::kMaxDims) continue;
    attempt([&] { tensors.read_floats(name, destination(DType::F32, entry)); });
    attempt([&] { tensors.read(name, destination(DType::U8, entry)); });
  }
  check(covered <= bytes.size(), "tensors don't overlap");
  tensors.entry("no such name");
}

}  // namespace nibble::fuzz
