#include "nibble/data/chat_template.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "nibble/io/config_table.h"
#include "nibble/io/data_file.h"
#include "nibble/io/file.h"
#include "nibble/io/format.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr const char* kFolder = "chat_templates";
constexpr const char* kAssistant = "assistant";
constexpr const char* kSystem = "system";

std::string trimmed(const std::string& text) {
  constexpr const char* kBlank = " \t\r\n\v\f";
  const std::size_t first = text.find_first_not_of(kBlank);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(kBlank) + 1 - first);
}

bool has_pieces(const Tokenizer& tokenizer, const std::vector<std::string>& pieces) {
  return std::all_of(pieces.begin(), pieces.end(),
                     [&](const std::string& piece) { return tokenizer.find_piece(piece) >= 0; });
}

ChatTemplate read(const ConfigTable& t, const std::string& name) {
  ChatTemplate format;
  format.name = name;
  format.recognised_by = t.texts("recognised_by");
  format.tokens = t.texts("tokens");
  format.begin = t.text("begin", "");
  format.default_system = t.text("default_system", "");
  format.trim = t.boolean("trim", false);
  for (const std::string& token : format.tokens) {
    if (token.empty()) t.fail("tokens", "holds an empty token");
  }
  const ConfigTable roles = t.table("roles");
  for (const std::string& role : roles.keys()) {
    const ConfigTable r = roles.table(role);
    format.roles[role] = {r.text("before", ""), r.text("start", ""), r.text("end", ""), r.text("after", ""),
                          r.text("joins", "")};
    r.finish();
  }
  for (const auto& [role, says] : format.roles) {
    if (!says.joins.empty() && !format.roles.contains(says.joins)) {
      roles.fail(role, fmt::format("joins the role '{}', which is not there", says.joins));
    }
  }
  if (!format.roles.contains(kAssistant)) t.fail("roles", "must have the role 'assistant'");
  const ChatRole& assistant = format.roles.at(kAssistant);
  if (assistant.end.empty() || !assistant.joins.empty()) {
    roles.fail(kAssistant, "must have an 'end', which a model learns to stop with, and joins no other role");
  }
  if (!format.default_system.empty() && !format.roles.contains(kSystem)) {
    t.fail("default_system", "needs the role 'system'");
  }
  t.finish();
  return format;
}

class Renderer {
 public:
  Renderer(const ChatTemplate& format, const std::string& where) : format_(format), where_(where) {}

  std::vector<ChatPiece> run(const std::vector<ChatMessage>& messages) {
    add_frame(format_.begin, false);
    std::string joined;
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const ChatMessage& message = messages[i];
      const ChatRole& role = role_of(message);
      check_content(message);
      if (!role.joins.empty()) {
        if (i + 1 == messages.size() || messages[i + 1].role != role.joins) {
          user_error("{}: in the chat template '{}' a message of the role '{}' must stand before one of the role '{}'",
                     where_, format_.name, message.role, role.joins);
        }
        joined += role.before + role.start + message.content + role.end + role.after;
        continue;
      }
      joined += message.content;
      add_frame(role.before, false);
      add_frame(role.start, message.counted);
      pieces_.push_back({format_.trim ? trimmed(joined) : joined, false, message.counted});
      add_frame(role.end, message.counted);
      add_frame(role.after, false);
      joined.clear();
    }
    return std::move(pieces_);
  }

 private:
  const ChatRole& role_of(const ChatMessage& message) const {
    const auto role = format_.roles.find(message.role);
    if (role != format_.roles.end()) return role->second;
    user_error("{}: the chat template '{}' has no role '{}' but {}", where_, format_.name, message.role,
               join_names(names_of(format_.roles)));
  }
  void check_content(const ChatMessage& message) const {
    for (const std::string& token : format_.tokens) {
      if (message.content.find(token) == std::string::npos) continue;
      user_error("{}: a message of the role '{}' holds '{}', a special token of the chat template '{}'; take it out",
                 where_, message.role, token, format_.name);
    }
  }
  /// Cuts a text of the template at its tokens: the leftmost first, of those that begin at one place the longest.
  void add_frame(std::string_view text, bool counted) {
    while (!text.empty()) {
      std::size_t at = text.size();
      std::string_view found;
      for (const std::string& token : format_.tokens) {
        const std::size_t begin = std::min(text.find(token), text.size());
        if (begin > at || (begin == at && token.size() <= found.size())) continue;
        at = begin;
        found = begin < text.size() ? std::string_view(token) : std::string_view();
      }
      if (at > 0) pieces_.push_back({std::string(text.substr(0, at)), false, counted});
      if (!found.empty()) pieces_.push_back({std::string(found), true, counted});
      text.remove_prefix(at + found.size());
    }
  }

  const ChatTemplate& format_;
  const std::string& where_;
  std::vector<ChatPiece> pieces_;
};

}  // namespace

ChatTemplate parse_chat_template(const std::string& text, const std::string& name, const std::string& origin) {
  return read(ConfigTable::parse_text(text, origin), name);
}

ChatTemplate load_chat_template(const std::string& name_or_path) {
  const std::filesystem::path path = find_data_file(kFolder, name_or_path, "chat template");
  return parse_chat_template(read_file(path), path.stem().string(), path.string());
}

std::vector<std::string> chat_end_tokens(const std::string& name) {
  const std::vector<std::string> known = known_data_files(kFolder);
  if (std::find(known.begin(), known.end(), name) == known.end()) return {};
  const ChatTemplate format = load_chat_template(name);
  const std::string& end = format.roles.at(kAssistant).end;
  std::vector<std::string> found;
  std::copy_if(format.tokens.begin(), format.tokens.end(), std::back_inserter(found),
               [&](const std::string& token) { return end.find(token) != std::string::npos; });
  return found;
}

std::optional<ChatTemplate> recognise_chat_template(const Tokenizer& tokenizer, std::string& why) {
  const std::vector<std::string> known = known_data_files(kFolder);
  std::vector<ChatTemplate> found;
  for (const std::string& name : known) {
    ChatTemplate format = load_chat_template(name);
    if (!format.recognised_by.empty() && has_pieces(tokenizer, format.recognised_by))
      found.push_back(std::move(format));
  }
  if (found.size() == 1) return std::move(found.front());
  if (found.empty()) {
    why = fmt::format("the tokenizer has the special tokens of no chat template; name one with --template, among {}",
                      join_names(known));
  } else {
    std::vector<std::string> names(found.size());
    std::transform(found.begin(), found.end(), names.begin(), [](const ChatTemplate& format) { return format.name; });
    why = fmt::format("the tokenizer has the special tokens of several chat templates ({}); name one with --template",
                      join_names(names));
  }
  return std::nullopt;
}

std::vector<ChatPiece> render_chat(const ChatTemplate& format, std::vector<ChatMessage> messages,
                                   const std::string& where) {
  if (!format.default_system.empty() && (messages.empty() || messages.front().role != kSystem)) {
    messages.insert(messages.begin(), {kSystem, format.default_system, false});
  }
  return Renderer(format, where).run(messages);
}

}  // namespace nibble
