#include "nibble/data/tokenizer_files.h"

#include "nibble/io/file.h"
#include "nibble/io/hugging_face_files.h"

namespace nibble {

namespace fs = std::filesystem;

fs::path find_tokenizer_file(const fs::path& folder) {
  for (const char* name : {kTokenizerJsonFile, kSentencePieceFile}) {
    if (fs::exists(folder / name)) return folder / name;
  }
  return {};
}

std::string tokenizer_config_beside(const fs::path& file) {
  const fs::path config = file.parent_path() / kTokenizerConfigFile;
  return fs::exists(config) ? read_file(config) : "";
}

}  // namespace nibble
