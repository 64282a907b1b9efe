// A GGUF file as a model with its tokenizer: configuration, tensors in their own order, the tokenizer's files and a
// text.
#include "nibble/model/gguf_model.h"

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/data/gguf_tokenizer.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  static MemoryFile memory;
  const std::filesystem::path& path = memory.hold(bytes);
  attempt([&] {
    const GgufFile file(path);
    if (!has_gguf_tokenizer(file)) return;
    gguf_end_ids(file);
    const Tokenizer tokenizer = gguf_tokenizer(file);
    const std::vector<std::int32_t> ids = tokenizer.encode("A b\xC3\xA9  12\n");
    tokenizer.decode(ids);
  });
  const GgufModel model(path);
  check(model.config().parameters() > 0, "the parameters can be counted");
  constexpr std::int64_t kElements = 1 << 16;  // more are not worth the time
  for (const std::string& name : model.names()) {
    check(model.contains(name), "a name that is told is there");
    const std::vector<std::int64_t> shape = model.shape(name);
    std::int64_t elements = 1;
    for (const std::int64_t size : shape) elements = size > kElements ? kElements + 1 : elements * size;
    attempt([&] { model.bytes_as(DType::BF16, name); });
    if (elements < 1 || elements > kElements || shape.empty()) continue;
    const OwnedTensor values(DType::F32, shape);
    attempt([&] { model.read_floats(name, values); });
  }
}

}  // namespace nibble::fuzz
