// `nibble train --ranks n --restarts m`: this process starts the ranks, waits for them, and starts them again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble {

/// Exit code of a run that an alarm stopped after it was saved.
inline constexpr int kStoppedByAlarm = 3;

struct Launcher {
  std::int64_t ranks = 1;     ///< of this machine; more than one are started by mpirun
  std::int64_t restarts = 0;  ///< at most, after a job that did not end by itself
  bool cpu = true;            ///< ranks share the machine's cores among them, where OMP_NUM_THREADS says nothing else
};

/// Whether this process is to start others instead of doing the work itself.
inline bool launches(const Launcher& launcher) { return launcher.ranks > 1 || launcher.restarts > 0; }

/// Runs this program with `arguments`, and again with `again` in their place while it dies or fails (a signal, an
/// internal error, a rank that is gone), `restarts` times at most; says so each time. A user's mistake, an alarm and a
/// signal to this process end it: SIGINT and SIGTERM are handed on, so that the run is saved. Returns the last exit
/// code. UserError where there is no mpirun, or where this process is a rank itself.
int launch(const Launcher& launcher, const std::vector<std::string>& arguments, const std::vector<std::string>& again);

}  // namespace nibble
