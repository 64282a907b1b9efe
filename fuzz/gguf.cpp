// A GGUF file: its metadata as every kind of value, and its tensors as F32.
#include "nibble/io/gguf.h"

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/io/ggml_blocks.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  static MemoryFile memory;
  const GgufFile file(memory.hold(bytes));
  for (const auto& named : file.metadata()) {
    const std::string& key = named.first;
    attempt([&] { file.text(key); });
    attempt([&] { file.integer(key); });
    attempt([&] { file.number(key); });
    attempt([&] { file.flag(key); });
    attempt([&] { file.texts(key); });
    attempt([&] { file.integers(key); });
    attempt([&] { file.numbers(key); });
  }
  std::size_t covered = 0;
  for (const auto& named : file.tensors()) {
    const GgufTensor& tensor = named.second;
    check(tensor.bytes.size() == gguf_bytes(tensor), "a tensor has the bytes of its shape");
    covered += tensor.bytes.size();
    const OwnedTensor values(DType::F32, tensor.shape.empty() ? std::vector<std::int64_t>{1} : tensor.shape);
    attempt([&] { read_gguf_floats(file, tensor.name, values); });
  }
  check(covered <= bytes.size(), "tensors don't overlap");
  file.tensor("no such name");
}

}  // namespace nibble::fuzz
