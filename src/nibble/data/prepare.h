// From text, or from records of prompts and completions, to token shards: the work of 'nibble data prepare'.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "nibble/data/dataset.h"
#include "nibble/data/text_reader.h"

namespace nibble {

struct PrepareProgress {
  std::uint64_t file_bytes_done = 0;
  std::uint64_t file_bytes_total = 0;  ///< standard input is not counted
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
  std::int64_t counted = 0;      ///< of the tokens, those that count in the loss
  std::int64_t cut_borders = 0;  ///< chat: where a token would have spanned a border (data/masked_text.h)
};

struct PrepareOptions {
  std::vector<std::string> inputs;  ///< as TextReader takes them
  /// Documents for the validation split; empty for none, or for valid_fraction.
  std::vector<std::string> valid_inputs;
  /// In [0, 1): the share of the documents that goes to the validation split, chosen by a hash of their text, so that
  /// equal documents are never on both sides and the order of the inputs does not matter.
  double valid_fraction = 0;
  ReaderOptions reader;
  /// The inputs are JSON lines of records (data/chat_record.h), `reader` and names notwithstanding, and the shards get
  /// loss masks. A record's line is its text where documents are chosen by a hash and bytes are counted.
  bool chat = false;
  std::string chat_template;        ///< as ChatEncoder takes it
  std::filesystem::path tokenizer;  ///< as Tokenizer::load takes it
  std::filesystem::path output;
  bool replace = false;                     ///< an existing data set is replaced when the new one is complete
  std::int64_t shard_tokens = 100'000'000;  ///< tokens of a training shard
  /// Called about once for each megabyte of text and at the end; it may throw to abandon the work.
  std::function<void(const PrepareProgress&)> progress;
};

/// Writes the data set (data/dataset.h). Documents are tokenised in parallel and written in the order of the inputs, so
/// the files are the same for any number of threads. The directory appears when it is complete; an interrupted run
/// leaves at most a directory output.tmp-PID. UserError for wrong options, unreadable inputs, and an empty split; of
/// records that are refused, the first is named.
DatasetMeta prepare_dataset(const PrepareOptions& options);

}  // namespace nibble
