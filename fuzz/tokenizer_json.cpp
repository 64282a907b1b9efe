// A tokenizer.json, a text that it encodes, and the tokenizer_config.json beside it: TOKENIZER cut TEXT cut CONFIG.
#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/data/tokenizer.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  static const InputFolder folder;
  const auto [json, rest] = cut(bytes);
  const auto [text, config] = cut(rest);
  folder.write("tokenizer.json", std::string("{").append(json));  // anything else would be a SentencePiece model
  folder.write("tokenizer_config.json", config);
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  const std::vector<std::int32_t> ids = tokenizer.encode(text);
  WordCache cache;
  std::vector<std::int32_t> cached;
  tokenizer.encode_document(text, cached, &cache);
  cached.pop_back();
  check(ids == cached, "a cache changes no ids");
  tokenizer.decode(ids);
  for (const std::int32_t id : ids) tokenizer.piece(id);
  if (tokenizer.bos_id() >= 0) tokenizer.piece(tokenizer.bos_id());
  tokenizer.piece(tokenizer.eos_id());
}

}  // namespace nibble::fuzz
