#include "nibble/io/config_table.h"

#include <toml++/toml.h>

#include <cstdio>
#include <map>
#include <set>
#include <sstream>

#include "nibble/io/file.h"
#include "nibble/io/suggest.h"

namespace nibble {

struct ConfigTable::State {
  toml::table root;
  std::string origin;
  std::set<std::string> overridden;                    // by --set: they have no line
  std::map<std::string, std::set<std::string>> asked;  // table prefix -> keys that were asked for
};

namespace {

toml::table parse_document(std::string_view text, const std::string& origin) {
  try {
    return toml::parse(text, origin);
  } catch (const toml::parse_error& e) {
    user_error("{}:{}: {}", origin, e.source().begin.line, std::string(e.description()));
  }
}

std::vector<std::string> split_dots(std::string_view key) {
  std::vector<std::string> parts;
  std::stringstream stream{std::string(key)};
  for (std::string part; std::getline(stream, part, '.');) parts.push_back(part);
  return parts;
}

const char* type_word(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::string: return "a string";
    case toml::node_type::integer: return "an integer";
    case toml::node_type::floating_point: return "a number";
    case toml::node_type::boolean: return "true or false";
    case toml::node_type::array: return "an array";
    case toml::node_type::table: return "a table";
    default: return "a date or time";
  }
}

}  // namespace

ConfigTable ConfigTable::parse_file(const std::filesystem::path& path) {
  return parse_text(read_file(path), path.string());
}

ConfigTable ConfigTable::parse_text(std::string_view text, std::string origin) {
  ConfigTable table;
  table.state_ = std::make_shared<State>();
  table.state_->root = parse_document(text, origin);
  table.state_->origin = std::move(origin);
  return table;
}

void ConfigTable::set(std::string_view assignment) {
  const auto equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    user_error("--set {}: write it as table.key=value", std::string(assignment));
  }
  const std::string key(assignment.substr(0, equals));
  const std::string value(assignment.substr(equals + 1));
  toml::table parsed;
  try {
    parsed = toml::parse("v = " + value);
  } catch (const toml::parse_error&) {
    parsed.insert_or_assign("v", value);  // a bare word is a string
  }
  toml::table* table = &state_->root;
  const auto parts = split_dots(key);
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    if (!table->contains(parts[i])) table->insert_or_assign(parts[i], toml::table{});
    table = table->get(parts[i])->as_table();
    if (table == nullptr) user_error("--set {}: '{}' is not a table", std::string(assignment), parts[i]);
  }
  table->insert_or_assign(parts.back(), *parsed.get("v"));
  state_->overridden.insert(key);
}

std::string ConfigTable::full_key(std::string_view key) const {
  return prefix_.empty() ? std::string(key) : prefix_ + "." + std::string(key);
}

namespace {

const toml::node* find(const toml::table& root, const std::string& key) { return root.at_path(key).node(); }

/// Moving keeps where the value was read; a copy would lose it.
void move_absent(toml::table& from, toml::table& to) {
  for (auto&& [key, node] : from) {
    if (to.contains(key.str())) continue;
    node.visit([&, name = key.str()](auto& value) { to.insert(name, std::move(value)); });
  }
}

}  // namespace

void ConfigTable::inherit(ConfigTable&& base, const std::vector<std::string>& merged) {
  toml::table& here = state_->root;
  toml::table& there = base.state_->root;
  for (const std::string& key : merged) {
    toml::table* to = here.contains(key) ? here.get(key)->as_table() : nullptr;
    toml::table* from = there.contains(key) ? there.get(key)->as_table() : nullptr;
    if (to != nullptr && from != nullptr) move_absent(*from, *to);
  }
  move_absent(there, here);
}

void ConfigTable::erase(std::string_view key) {
  toml::table* table = prefix_.empty() ? &state_->root : state_->root.at_path(prefix_).as_table();
  if (table != nullptr) table->erase(key);
}

bool ConfigTable::has(std::string_view key) const {
  state_->asked[prefix_].insert(std::string(key));
  return find(state_->root, full_key(key)) != nullptr;
}

ConfigTable ConfigTable::table(std::string_view key) const {
  if (has(key) && !find(state_->root, full_key(key))->is_table()) fail(key, "must be a table");
  return at(full_key(key));
}

std::vector<ConfigTable> ConfigTable::tables(std::string_view key) const {
  if (!has(key)) return {};
  const std::string full = full_key(key);
  const toml::array* array = find(state_->root, full)->as_array();
  if (array == nullptr) fail(key, fmt::format("is an array of tables: write [[{}]]", full));
  std::vector<ConfigTable> found;
  for (const toml::node& item : *array) {
    if (!item.is_table()) fail(key, fmt::format("holds {}, must hold tables", type_word(item)));
    found.push_back(at(fmt::format("{}[{}]", full, found.size())));
  }
  return found;
}

ConfigTable ConfigTable::at(std::string prefix) const {
  ConfigTable sub;
  sub.state_ = state_;
  sub.prefix_ = std::move(prefix);
  return sub;
}

bool ConfigTable::holds_text(std::string_view key) const {
  return has(key) && find(state_->root, full_key(key))->is_string();
}

std::vector<std::string> ConfigTable::keys() const {
  std::vector<std::string> names;
  const toml::node* node = prefix_.empty() ? &state_->root : find(state_->root, prefix_);
  if (node == nullptr || !node->is_table()) return names;
  for (const auto& [key, value] : *node->as_table()) names.emplace_back(key.str());
  return names;
}

void ConfigTable::fail(std::string_view key, const std::string& message) const {
  const std::string full = full_key(key);
  if (state_->overridden.count(full) != 0) user_error("--set {}: {}", full, message);
  const toml::node* node = find(state_->root, full);
  for (std::string table = prefix_; node == nullptr && !table.empty();) {  // the nearest table around a missing key
    node = find(state_->root, table);
    const auto dot = table.rfind('.');
    table.resize(dot == std::string::npos ? 0 : dot);
  }
  if (node == nullptr || node->source().begin.line == 0) user_error("{}: key '{}': {}", state_->origin, full, message);
  const std::string& file = node->source().path ? *node->source().path : state_->origin;
  user_error("{}:{}: key '{}': {}", file, node->source().begin.line, full, message);
}

std::string ConfigTable::text(std::string_view key) const {
  if (!has(key)) fail(key, "is missing");
  const toml::node* node = find(state_->root, full_key(key));
  if (!node->is_string()) fail(key, fmt::format("must be a string, not {}", type_word(*node)));
  return node->as_string()->get();
}

std::string ConfigTable::text(std::string_view key, std::string fallback) const {
  return has(key) ? text(key) : std::move(fallback);
}

bool ConfigTable::boolean(std::string_view key, bool fallback) const {
  if (!has(key)) return fallback;
  const toml::node* node = find(state_->root, full_key(key));
  if (!node->is_boolean()) fail(key, fmt::format("must be true or false, not {}", type_word(*node)));
  return node->as_boolean()->get();
}

std::int64_t ConfigTable::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
  if (!has(key)) fail(key, "is missing");
  const toml::node* node = find(state_->root, full_key(key));
  if (!node->is_integer()) fail(key, fmt::format("must be an integer, not {}", type_word(*node)));
  const std::int64_t value = node->as_integer()->get();
  if (value < low || value > high) fail(key, fmt::format("is {}, must be {} to {}", value, low, high));
  return value;
}

std::int64_t ConfigTable::integer(std::string_view key, std::int64_t fallback, std::int64_t low,
                                  std::int64_t high) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double ConfigTable::number(std::string_view key, double fallback, double low, double high) const {
  if (!has(key)) return fallback;
  const toml::node* node = find(state_->root, full_key(key));
  if (!node->is_number()) fail(key, fmt::format("must be a number, not {}", type_word(*node)));
  const double value =
      node->is_integer() ? static_cast<double>(node->as_integer()->get()) : node->as_floating_point()->get();
  if (!(value >= low && value <= high)) fail(key, fmt::format("is {}, must be {} to {}", value, low, high));
  return value;
}

double ConfigTable::fraction(std::string_view key, double fallback, double low, double high) const {
  if (!holds_text(key)) return number(key, fallback, low, high);
  const std::string word = text(key);
  double above = 0;
  double below = 0;
  char rest = 0;
  if (std::sscanf(word.c_str(), "%lf/%lf%c", &above, &below, &rest) != 2 || below == 0) {
    fail(key, fmt::format("'{}' is neither a number nor a fraction such as \"96/17\"", word));
  }
  const double value = above / below;
  if (!(value >= low && value <= high)) fail(key, fmt::format("is {}, must be {} to {}", word, low, high));
  return value;
}

std::vector<std::string> ConfigTable::texts(std::string_view key) const {
  if (!has(key)) return {};
  const toml::node* node = find(state_->root, full_key(key));
  if (node->is_string()) return {node->as_string()->get()};
  if (!node->is_array()) fail(key, fmt::format("must be a string or an array of strings, not {}", type_word(*node)));
  std::vector<std::string> values;
  for (const toml::node& item : *node->as_array()) {
    if (!item.is_string()) fail(key, fmt::format("holds {}, must hold strings", type_word(item)));
    values.push_back(item.as_string()->get());
  }
  return values;
}

void ConfigTable::finish() const {
  const std::set<std::string>& asked = state_->asked[prefix_];
  for (const std::string& key : keys()) {
    if (asked.count(key) != 0) continue;
    std::string allowed;
    for (const std::string& name : asked) allowed += (allowed.empty() ? "" : ", ") + name;
    fail(key, fmt::format("is not known here{} (known: {})",
                          did_you_mean(key, std::vector<std::string>(asked.begin(), asked.end())), allowed));
  }
}

std::string ConfigTable::to_toml() const {
  std::ostringstream out;
  out << state_->root;
  return out.str();
}

}  // namespace nibble
