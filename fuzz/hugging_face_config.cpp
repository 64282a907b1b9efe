// A config.json of the Hugging Face tools; what it says is written in both forms and read again.
#include "nibble/model/hugging_face_config.h"

#include <nlohmann/json.hpp>

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/model/hugging_face_json.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  static const InputFolder folder;
  folder.write(kHuggingFaceConfigFile, bytes);
  const LlamaConfig model = read_hugging_face_config(folder.path());
  check(model.parameters() > 0, "the parameters can be counted");
  must_succeed(
      [&] { return read_llama_config(ConfigTable::parse_text(to_toml(model), "written.toml").table("model")); });
  folder.write(kHuggingFaceConfigFile, must_succeed([&] { return hugging_face_config(model, DType::F32).dump(); }));
  const LlamaConfig again = must_succeed([&] { return read_hugging_face_config(folder.path()); });
  check(again.parameters() == model.parameters(), "config.json is written as it was read");
}

}  // namespace nibble::fuzz
