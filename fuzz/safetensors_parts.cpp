// The parts of two ranks: FILE cut FILE. Rows are read as the parts have them and across their borders.
#include "nibble/io/safetensors_parts.h"

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  static const InputFolder folder;
  const auto [a, b] = cut(bytes);
  folder.write(safetensors_part_name("model", 0, 2), a);
  folder.write(safetensors_part_name("model", 1, 2), b);
  const SafetensorsParts parts(folder.path(), "model");
  for (const std::string& name : parts.names()) {
    std::size_t held = 0;
    for (const auto piece : parts.pieces(name)) held += piece.size();
    check(held <= bytes.size(), "a tensor has no more bytes than the files");
    const std::vector<std::int64_t>& shape = parts.shape(name);
    if (shape.size() != 2 || shape[0] < 2 || shape[0] > 64 || shape[1] < 0 || shape[1] > 64) continue;
    const OwnedTensor rows(DType::F32, {shape[0] - 1, shape[1]});
    attempt([&] { parts.read_float_rows(name, 1, rows); });
    attempt([&] { parts.read_rows(name, 1, rows); });
    attempt([&] { parts.read(name, rows); });
  }
}

}  // namespace nibble::fuzz
