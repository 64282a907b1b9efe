// A table of settings, an override as --set gives it (SETTINGS cut ASSIGNMENT), and each kind of value.
#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/io/config_table.h"

namespace nibble::fuzz {

namespace {

void read_every_key(const ConfigTable& table, int depth) {
  for (const std::string& key : table.keys()) {
    attempt([&] { table.text(key); });
    attempt([&] { table.texts(key); });
    attempt([&] { table.boolean(key, false); });
    attempt([&] { table.integer(key, -10, 10); });
    attempt([&] { table.number(key, 0, -1e9, 1e9); });
    attempt([&] { table.fraction(key, 0, -1e9, 1e9); });
    if (depth == 0) continue;
    attempt([&] { read_every_key(table.table(key), depth - 1); });
    attempt([&] {
      for (const ConfigTable& one : table.tables(key)) read_every_key(one, depth - 1);
    });
  }
}

}  // namespace

void read_input(std::string_view bytes) {
  const auto [settings, assignment] = cut(bytes);
  ConfigTable table = ConfigTable::parse_text(settings, "input.toml");
  if (!assignment.empty()) table.set(assignment);
  const std::string written = table.to_toml();
  const ConfigTable again = must_succeed([&] { return ConfigTable::parse_text(written, "written.toml"); });
  check(again.to_toml() == written, "a table comes back as it was written");
  read_every_key(table, 4);
  table.finish();
}

}  // namespace nibble::fuzz
