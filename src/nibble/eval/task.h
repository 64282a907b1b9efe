// A zero-shot task as a file says it: which rows, what the model reads, what is scored, and which figures come of it.
// How to write one: docs/evaluation.md.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nibble/eval/template.h"

namespace nibble {

enum class TaskKind : std::uint8_t {
  Choices,       ///< which of several continuations (or contexts) is likeliest
  Continuation,  ///< how likely one continuation is
  Rolling,       ///< how likely a whole text is
};

enum class Metric : std::uint8_t {
  Acc,             ///< choices: the likeliest is the right one. continuation: greedy decoding would give it
  AccNorm,         ///< choices: as acc, log-likelihoods divided by the characters of the choice
  AccBytes,        ///< choices: as acc, divided by the bytes of the choice
  Perplexity,      ///< continuation: exp(-mean log-likelihood)
  WordPerplexity,  ///< rolling: exp(-sum of log-likelihoods / words)
  BytePerplexity,  ///< rolling: exp(-sum of log-likelihoods / bytes)
  BitsPerByte,     ///< rolling: log2 of byte_perplexity
};
const char* metric_name(Metric metric);  ///< "acc_norm", ...
bool higher_is_better(Metric metric);

struct Task {
  std::string name;
  double version = 0;
  std::string data;  ///< file name in the data folder
  TaskKind kind = TaskKind::Choices;
  std::vector<Metric> metrics;
  std::string delimiter = " ";      ///< between context and continuation
  std::vector<Template> context;    ///< one, or one a choice
  std::vector<Template> choices;    ///< what follows the context; a list field gives several
  std::optional<Template> text;     ///< continuation: what follows; rolling: the text
  std::optional<Template> counted;  ///< rolling: whose words and bytes count
  std::optional<Template> gold;     ///< choices: which is right: its index, or an element of
  std::vector<Template> gold_among;
  std::vector<TextRule> clean;  ///< applied to contexts and choices once they are rendered
  /// Values of fields that templates see others for: replace["question"]["cause"] = "because".
  std::map<std::string, std::map<std::string, std::string>> replace;
  std::string source;  ///< the file's text, kept with results
};

/// Reads and validates a task file; UserError with file, line, key and what is allowed.
Task load_task(const std::filesystem::path& path);
Task parse_task(const std::string& text, const std::string& name, const std::string& origin);

/// A task by name (tasks/NAME.toml, io/data_file.h) or by path.
std::filesystem::path find_task(const std::string& name_or_path);
std::vector<std::string> known_tasks();

/// The task that measures perplexity on documents of plain text, which become rows {"text": document}.
Task text_task(const std::string& name);

}  // namespace nibble
