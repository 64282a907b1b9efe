// The items of a task: the rows of its data file with everything rendered.
//
// Data is JSON Lines: an object a line, blank lines left out, plain or compressed (data/byte_source.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/eval/task.h"

namespace nibble {

struct Item {
  std::int64_t row = 0;  ///< of the data, counted from 0
  std::string document;  ///< the row as JSON text
  /// What is scored: each continuation after its context. A rolling task has one pair with an empty context.
  struct Pair {
    std::string context;
    std::string continuation;
  };
  std::vector<Pair> pairs;
  std::vector<std::string> choices;  ///< without delimiter: their lengths normalise
  std::int64_t gold = 0;             ///< which pair is right
  std::int64_t words = 0;            ///< rolling: of the counted text
  std::int64_t bytes = 0;
};

struct Items {
  std::vector<Item> items;
  std::int64_t rows = 0;  ///< of the file, those beyond the limit included
};

/// DIR/NAME, or the same with .gz or .zst behind it; UserError where there is none of them.
std::filesystem::path find_task_data(const std::filesystem::path& folder, const Task& task);

/// The first `limit` rows (0 = all). UserError with file and line for malformed JSON, a missing or unfit field, an
/// answer that is none of the choices, an item without two choices; with the file for one without rows.
Items read_items(const Task& task, const std::filesystem::path& file, std::int64_t limit);

/// The documents of plain text files (data/text_reader.h) as the items of a rolling task on {"text": document}.
Items read_text_items(const Task& task, const std::vector<std::string>& inputs, std::int64_t limit);

}  // namespace nibble
