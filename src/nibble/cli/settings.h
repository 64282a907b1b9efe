// What the commands that train share: reading the configuration, progress lines, and stopping on signals.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "nibble/train/compare.h"
#include "nibble/train/trainer.h"

namespace nibble {

/// Becomes true on SIGINT, SIGTERM or SIGUSR1, which mpirun and Slurm can hand to ranks; a second signal ends the
/// process at once.
const std::atomic<bool>& stop_on_signals();

/// UserError where this process is one of several ranks and the command knows nothing of them: all would write the same
/// files.
void require_alone(const std::string& command);

/// Exit code of a run that a signal stopped after it was saved.
inline constexpr int kStopped = 130;

/// Prints one progress line for a run; create one for each run.
class TrainDisplay {
 public:
  TrainDisplay(std::string label, const TrainConfig& config);
  ~TrainDisplay();
  TrainCallbacks callbacks();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// `compare` with a progress line a run, until it is complete or a signal comes: true when complete.
bool compare_with_progress(const TrainConfig& config, const CompareOptions& options);

}  // namespace nibble
