#include "nibble/data/chat_record.h"

#include <simdjson.h>

#include <algorithm>
#include <utility>

#include "nibble/tensor/error.h"

namespace nibble {

namespace {

using Element = simdjson::dom::element;

constexpr std::string_view kAssistant = "assistant";

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

/// Reads one record; `where` begins every complaint.
class RecordReader {
 public:
  explicit RecordReader(const std::string& where) : where_(where) {}

  ChatRecord read(const Element& object) {
    if (!object.is_object()) user_error("{}: this line is not a JSON object", where_);
    const bool messages = has(object, "messages");
    const bool prompt = has(object, "prompt");
    const bool completion = has(object, "completion");
    if (messages && (prompt || completion)) {
      user_error("{}: the object has both 'messages' and '{}'; keep one of them", where_,
                 prompt ? "prompt" : "completion");
    }
    if (!messages && (!prompt || !completion)) {
      user_error("{}: the object has {}; a record has 'prompt' and 'completion', or 'messages'", where_,
                 prompt       ? "no 'completion'"
                 : completion ? "no 'prompt'"
                              : "neither of them");
    }
    if (messages) {
      read_messages(object, "messages", true);
    } else {
      read_pair(object);
    }
    return std::move(record_);
  }

 private:
  static bool has(const Element& object, std::string_view key) {
    return object.at_key(key).error() == simdjson::SUCCESS;
  }

  void read_pair(const Element& object) {
    const bool lists = object.at_key("prompt").value().is_array();
    if (lists != object.at_key("completion").value().is_array()) {
      user_error("{}: 'prompt' and 'completion' are not both texts or both lists of messages", where_);
    }
    if (lists) {
      read_messages(object, "prompt", false);
      read_messages(object, "completion", true);
      return;
    }
    record_.prompt = text(object, "prompt", "");
    record_.completion = text(object, "completion", "");
    if (is_blank(record_.completion)) user_error("{}: the completion is empty", where_);
  }

  void read_messages(const Element& object, std::string_view key, bool count) {
    simdjson::dom::array list;
    if (object.at_key(key).get(list) != simdjson::SUCCESS)
      user_error("{}: '{}' is not a list of messages", where_, key);
    std::size_t number = 0;
    bool counted = false;
    for (const Element& item : list) {
      const std::string name = fmt::format("message {} of '{}': ", ++number, key);
      if (!item.is_object()) user_error("{}: {}this is not an object", where_, name);
      ChatMessage message{text(item, "role", name), text(item, "content", name), false};
      message.counted = count && message.role == kAssistant && weight(item, name);
      if (message.counted && is_blank(message.content)) {
        user_error("{}: {}the assistant's content is empty", where_, name);
      }
      counted = counted || message.counted;
      record_.messages.push_back(std::move(message));
    }
    if (count && !counted) user_error("{}: '{}' has no message of the assistant that counts in the loss", where_, key);
  }

  /// A member that is a text; `owner` is empty or "message 3 of 'messages': ".
  std::string text(const Element& object, std::string_view key, const std::string& owner) const {
    Element member;
    if (object.at_key(key).get(member) != simdjson::SUCCESS) user_error("{}: {}'{}' is missing", where_, owner, key);
    std::string_view value;
    if (member.get(value) != simdjson::SUCCESS) user_error("{}: {}'{}' is not a text", where_, owner, key);
    return std::string(value);
  }

  /// OpenAI's "weight" of a message: 0 or 1.
  bool weight(const Element& message, const std::string& owner) const {
    Element member;
    if (message.at_key("weight").get(member) != simdjson::SUCCESS || member.is_null()) return true;
    double value = -1;
    if (member.get(value) != simdjson::SUCCESS || (value != 0 && value != 1)) {
      user_error("{}: {}the weight is neither 0 nor 1", where_, owner);
    }
    return value == 1;
  }

  const std::string& where_;
  ChatRecord record_;
};

}  // namespace

ChatRecord parse_chat_record(std::string_view line, const std::string& where) {
  thread_local simdjson::dom::parser parser;
  Element object;
  if (const auto error = parser.parse(simdjson::padded_string(line)).get(object)) {
    user_error("{}: malformed JSON: {}", where, simdjson::error_message(error));
  }
  return RecordReader(where).read(object);
}

ChatEncoder::ChatEncoder(const Tokenizer& tokenizer, const std::string& format) : tokenizer_(tokenizer) {
  if (format.empty()) {
    format_ = recognise_chat_template(tokenizer, why_none_);
  } else {
    format_ = load_chat_template(format);
  }
  if (!format_) return;
  for (const std::string& spelling : format_->tokens) {
    const std::int32_t id = tokenizer.find_piece(spelling);
    if (id < 0) {
      user_error("the tokenizer has no token '{}', which the chat template '{}' needs; name another with --template",
                 spelling, format_->name);
    }
    tokens_[spelling] = {id, tokenizer.encode(spelling) == std::vector{id}};
  }
}

void ChatEncoder::encode(const ChatRecord& record, const std::string& where, MaskedTokens& out,
                         WordCache* cache) const {
  std::vector<MaskedPart> parts;
  if (record.messages.empty()) {
    parts.push_back({.text = record.prompt, .counted = false});
    parts.push_back({.text = record.completion, .counted = true});
    encode_masked(tokenizer_, parts, out, cache);
    // A prompt's own end, behind which the completion became nothing, is not the end that is to be learnt.
    if (out.ids.empty() || out.ids.back() != tokenizer_.eos_id() || out.counted.back() == 0) {
      out.ids.push_back(tokenizer_.eos_id());
      out.counted.push_back(1);
    }
    return;
  }
  if (!format_) user_error("{}: messages need a chat template: {}", where, why_none_);
  for (ChatPiece& piece : render_chat(*format_, record.messages, where)) {
    MaskedPart part{.text = std::move(piece.text), .counted = piece.counted};
    if (piece.token) {
      const Token& token = tokens_.at(part.text);
      part.token = token.id;
      part.spelled = token.spelled;
    }
    parts.push_back(std::move(part));
  }
  encode_masked(tokenizer_, parts, out, cache);
}

}  // namespace nibble
