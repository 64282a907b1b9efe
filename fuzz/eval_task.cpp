// A task file and the rows of its data: TASK cut JSONL.
#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/eval/items.h"
#include "nibble/eval/task.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  static MemoryFile file;
  const auto [text, rows] = cut(bytes);
  const Task task = parse_task(std::string(text), "input", "input.toml");
  for (const Item& item : read_items(task, file.hold(rows), 0).items) {
    check(item.gold >= 0 && static_cast<std::size_t>(item.gold) < item.pairs.size(), "the right answer is a choice");
  }
}

}  // namespace nibble::fuzz
