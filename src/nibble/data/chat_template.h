// How messages become one text, as a file says it: chat_templates/NAME.toml.
//
//   recognised_by   special tokens by which a tokenizer is known to be meant; none: only by name
//   tokens          special tokens that stand in the texts below: each is one token of the tokenizer, whatever it
//                   makes of the spelling in a text
//   begin           what a conversation begins with
//   default_system  a message of the role "system" for conversations that do not begin with one; empty: none
//   trim            whether white space (of ASCII) is dropped at both ends of messages
//   [roles.NAME]    a role of messages; "assistant" must be there
//     before        what stands before the turn
//     start, end    what the role writes before the content and to end its turn: of the assistant both count in the
//                   loss, like the content
//     after         what stands behind that
//     joins         a role: the whole message becomes the beginning of the next one's content, which must be of that
//                   role
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nibble/data/tokenizer.h"

namespace nibble {

struct ChatRole {
  std::string before, start, end, after;
  std::string joins;
};

struct ChatTemplate {
  std::string name;
  std::vector<std::string> recognised_by;
  std::vector<std::string> tokens;
  std::string begin;
  std::string default_system;
  bool trim = false;
  std::map<std::string, ChatRole> roles;
};

/// UserError with file, line, key and what is allowed.
ChatTemplate parse_chat_template(const std::string& text, const std::string& name, const std::string& origin);

/// A template by name (chat_templates/NAME.toml, io/data_file.h) or by path.
ChatTemplate load_chat_template(const std::string& name_or_path);

/// The tokens with which the assistant ends its turn by the template of this name; none where the name is not known.
std::vector<std::string> chat_end_tokens(const std::string& name);

/// The one template whose recognised_by the tokenizer has, all of them. Where there is none or several, nothing, and
/// `why` says so.
std::optional<ChatTemplate> recognise_chat_template(const Tokenizer& tokenizer, std::string& why);

/// One message of a conversation.
struct ChatMessage {
  std::string role;
  std::string content;
  bool counted = false;  ///< start, content and end count in the loss
};

/// A piece of the text that a conversation becomes.
struct ChatPiece {
  std::string text;
  bool token = false;  ///< the text is the spelling of one of the template's tokens
  bool counted = false;
};

/// UserError, begun with `where`, for a role that the template does not have, a message that cannot join the next, and
/// a content that holds one of the template's tokens: it would end or begin a turn.
std::vector<ChatPiece> render_chat(const ChatTemplate& format, std::vector<ChatMessage> messages,
                                   const std::string& where);

}  // namespace nibble
