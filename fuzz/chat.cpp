// A chat template and JSON lines of records, which it turns into pieces and a small tokenizer into ids:
// TEMPLATE cut LINES.
#include <nlohmann/json.hpp>

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/data/bpe/model.h"
#include "nibble/data/chat_record.h"
#include "nibble/data/chat_template.h"

namespace nibble::fuzz {

namespace {

/// The tokens of ChatML and bytes.
const Tokenizer& tokenizer() {
  static const Tokenizer bytes = [] {
    nlohmann::json vocab;
    for (std::size_t b = 0; b < 256; ++b) vocab[bpe::byte_spellings()[b]] = b;
    const std::string json = R"({"added_tokens":[{"id":256,"content":"<|im_start|>","special":true},)"
                             R"({"id":257,"content":"<|im_end|>","special":true}],)"
                             R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},)"
                             R"("decoder":{"type":"ByteLevel"},"model":{"type":"BPE","merges":[],"vocab":)" +
                             vocab.dump() + "}}";
    return Tokenizer::parse(json, R"({"eos_token":"<|im_end|>"})", "bytes");
  }();
  return bytes;
}

}  // namespace

void read_input(std::string_view bytes) {
  static const InputFolder folder;
  const auto [text, lines] = cut(bytes);
  const std::filesystem::path file = folder.path() / "input.toml";
  folder.write("input.toml", text);
  const ChatTemplate format = parse_chat_template(std::string(text), "input", "input.toml");
  std::unique_ptr<ChatEncoder> encoder;
  attempt([&] { encoder = std::make_unique<ChatEncoder>(tokenizer(), file.string()); });
  for (std::size_t begin = 0, number = 1; begin < lines.size(); ++number) {
    const std::size_t end = std::min(lines.find('\n', begin), lines.size());
    const std::string_view line = lines.substr(begin, end - begin);
    const std::string where = fmt::format("input.jsonl:{}", number);
    begin = end + 1;
    attempt([&] {
      const ChatRecord record = parse_chat_record(line, where);
      if (!record.messages.empty()) attempt([&] { render_chat(format, record.messages, where); });
      if (encoder == nullptr) return;
      MaskedTokens tokens;
      encoder->encode(record, where, tokens);
      check(tokens.ids.size() == tokens.counted.size(), "every token counts or does not");
      check(!tokens.ids.empty(), "a record that is taken has tokens");
    });
  }
}

}  // namespace nibble::fuzz
