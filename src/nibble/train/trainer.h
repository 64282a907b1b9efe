// The training loop of one run.
//
//   RUN/run.json          settings, recipe, model, machine, product paths
//   RUN/metrics.jsonl     one line a step
//   RUN/checkpoints/      train/checkpoint.h
//   RUN/events.*          the same scalars for TensorBoard
//   RUN/result.json       written when the last step is done; its presence means the run is complete
//
// Several ranks share the micro-batches of a step (train/gradient_exchange.h): each holds the whole model, computes its
// own passes, and makes the same update from the sum of all gradients. Rank 0 writes the files above and calls back; of
// checkpoints each rank writes its rows, and any number of ranks goes on from them. With train.deterministic the run's
// numbers are the same bits on any number of ranks.
//
// The loss of a step, and what its gradient is that of, is the mean over the targets that count in the whole batch,
//
//   L = 1/N * sum over the micro-batches m, sum over their targets i that count, of -log p(target_i | tokens up to i)
//
// where N is the number of all of these, over all micro-batches: a micro-batch with few completions weighs less than
// one with many, and how the batch is cut does not matter. Without a loss mask every target counts. The validation loss
// is the same mean over the validation data.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>

#include "nibble/dist/communicator.h"
#include "nibble/recipe/recipe.h"
#include "nibble/train/config.h"

namespace nibble {

/// What is reported after each step.
struct StepReport {
  std::int64_t step = 0;
  std::int64_t steps = 0;
  double loss = 0;
  double lr = 0;
  double grad_norm = 0;
  double tokens_per_second = 0;
  std::optional<std::int64_t> counted_tokens;  ///< where the data has a loss mask: targets that `loss` is the mean over
  double light_share = 0;  ///< time the step's arithmetic would take at the machine's peak, over the time it took
  std::optional<double> val_loss;
};

struct TrainCallbacks {
  std::function<void(const StepReport&)> on_step{};
  std::function<void(const std::string&)> on_message{};
  /// What the run will take of its device's memory, as a table, before the first step; what it took, after the last.
  std::function<void(const std::string&)> on_memory{};
};

enum class Resume : std::uint8_t {
  No,         ///< an existing run in the folder is an error
  IfPresent,  ///< from the newest valid checkpoint, or from the beginning
  Required,   ///< a missing checkpoint is an error
};

/// An alarm that is to stop the run (AlarmSettings::stops) fired; what() is its sentence. Everything is saved. Resumed,
/// the run goes on: the alarm does not fire again until it has cleared.
class AlarmStop : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Trains until the last step or until `stop` becomes true; either way a checkpoint of the last completed step is
/// written. Returns true when the run is complete. Throws UserError when the device has too little memory for the run
/// (before the first step), when the loss or a gradient is not finite (before the update; the newest checkpoint stays),
/// or when the folder's run has other settings; AlarmStop after a checkpoint.
/// Every rank calls it with the same arguments, but for callbacks, of which rank 0's alone are called, and `stop`,
/// which ends the run on all ranks after the same step. AlarmStop is thrown on rank 0; the others return false.
bool train(Communicator& ranks, const TrainConfig& config, const Recipe& recipe, const std::filesystem::path& run,
           Resume resume, const std::atomic<bool>& stop, const TrainCallbacks& callbacks);
/// On one rank.
bool train(const TrainConfig& config, const Recipe& recipe, const std::filesystem::path& run, Resume resume,
           const std::atomic<bool>& stop, const TrainCallbacks& callbacks);

}  // namespace nibble
