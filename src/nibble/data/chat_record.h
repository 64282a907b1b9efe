// Records of fine-tuning data, a JSON object each, in the two forms of Hugging Face's TRL and of OpenAI's fine-tuning:
//
//   {"prompt": "...", "completion": "..."}
//   {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
//
// or, as TRL has it too, lists of messages as prompt and completion. Other keys are passed over. What counts in the
// loss:
//
//   prompt and completion            the completion and the token that ends it
//   messages                         the content of each message of the role "assistant" and what ends its turn; not of
//                                    one with "weight": 0
//   lists as prompt and completion   the same, in the completion alone
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "nibble/data/chat_template.h"
#include "nibble/data/masked_text.h"
#include "nibble/data/tokenizer.h"

namespace nibble {

struct ChatRecord {
  std::string prompt, completion;     ///< where there are no messages
  std::vector<ChatMessage> messages;  ///< in order, prompt before completion
};

/// Reads one line. UserError, begun with `where` (FILE:LINE), for malformed JSON, missing keys, values of another type,
/// and a record in which nothing counts: an empty completion, or no message of the assistant.
ChatRecord parse_chat_record(std::string_view line, const std::string& where);

/// Records to token ids with their mask, for one tokenizer; may be used from several threads at once.
///
///   prompt, completion   ids of both (data/masked_text.h), and eos_id where the completion does not end with it
///   messages             what the template makes of them; its tokens are tokens, and nothing is added
class ChatEncoder {
 public:
  /// `format` names the template, as load_chat_template takes it; empty: the one that the tokenizer's special tokens
  /// tell. UserError for one whose tokens the tokenizer does not have.
  ChatEncoder(const Tokenizer& tokenizer, const std::string& format);

  /// Appends a record. UserError, begun with `where`, for messages without a template.
  void encode(const ChatRecord& record, const std::string& where, MaskedTokens& out, WordCache* cache = nullptr) const;
  /// Empty where there is none.
  std::string template_name() const { return format_ ? format_->name : ""; }

 private:
  struct Token {
    std::int32_t id = -1;
    bool spelled = false;  // MaskedPart::spelled
  };
  const Tokenizer& tokenizer_;
  std::optional<ChatTemplate> format_;
  std::string why_none_;
  std::map<std::string, Token> tokens_;
};

}  // namespace nibble
