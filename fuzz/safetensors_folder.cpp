// An index and two files of tensors beside it: INDEX cut FILE cut FILE, where the index calls them "a" and "b".
#include "nibble/io/safetensors_folder.h"

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  static const InputFolder folder;
  const auto [index, files] = cut(bytes);
  const auto [a, b] = cut(files);
  folder.write(kWeightsIndexFile, index);
  folder.write("a", a);
  folder.write("b", b);
  const SafetensorsFolder tensors(folder.path());
  for (const std::string& name : tensors.names())
    check(tensors.entry(name).name == name, "a name is that of its tensor");
}

}  // namespace nibble::fuzz
