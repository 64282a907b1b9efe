// A trained model scored on tasks by their names: what `nibble eval` does, without a command line.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nibble/eval/evaluate.h"
#include "nibble/train/stored_model.h"

namespace nibble {

/// What a text without a context follows.
enum class TextPrefix : std::uint8_t {
  Eos,
  Bos,
  Auto,  ///< Bos where a model that nibble did not train has one, as the harness; Eos, as nibble's training, elsewhere
};
/// By the name that commands know: "eos", "bos" or "auto"; UserError for another one.
TextPrefix text_prefix_of(const std::string& name);

struct ModelEvaluation {
  std::vector<std::string> tasks;            ///< names or files; {"all"}: every one of tasks/
  std::vector<std::string> texts;            ///< text files, whose perplexity is measured as one task "text"
  std::filesystem::path data = "data/eval";  ///< folder of the tasks' data files
  std::int64_t limit = 0;                    ///< the first rows of each task; 0 = all
  std::string recipe;  ///< arithmetic of the linear layers, by name or file; empty = everything in F32
  TextPrefix prefix = TextPrefix::Auto;
  bool add_bos = false;  ///< every text begins with <s>
  Device device = Device::Cpu;
  std::int64_t batch = 0;     ///< tokens a pass, about; 0 = by device
  std::filesystem::path out;  ///< folder for results.json and the logs that a later call goes on from; empty = no files
  bool samples = false;       ///< OUT/samples_TASK.jsonl too (eval/results.h)
};

struct ModelResults {
  std::vector<TaskResult> tasks;
  std::string json;  ///< what results.json holds (eval/results.h)
};

/// Loads the model and scores it. Nothing when `stop` became true before the end; what was scored by then is in the
/// logs. UserError where a task, its data or a text is missing or wrong, and where evaluate_tasks throws one.
std::optional<ModelResults> evaluate_model(const StoredModel& model, const Tokenizer& tokenizer,
                                           const ModelEvaluation& what, const std::atomic<bool>& stop,
                                           const std::function<void(const EvalProgress&)>& on_progress = {});

}  // namespace nibble
