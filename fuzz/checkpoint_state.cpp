// The state.json of a checkpoint of weights alone, which are three bytes.
#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/train/checkpoint.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  static const InputFolder folder;
  folder.write("model.safetensors", "abc");
  folder.write("state.json", bytes);
  load_state(folder.path());
}

}  // namespace nibble::fuzz
