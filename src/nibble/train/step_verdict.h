// What ranks tell each other after a step, so that all of them go on, stop or change the stage together.
#pragma once

#include <optional>
#include <vector>

#include "nibble/dist/communicator.h"

namespace nibble {

struct StepVerdict {
  bool stop = false;                        ///< somebody was asked to stop
  bool alarm = false;                       ///< an alarm that stops the run fired on rank 0, which watches
  std::optional<double> gradient_to_noise;  ///< what rank 0 measured, if it did
  bool written = false;                     ///< all ranks have written their part of the checkpoint under way
  double own_seconds = 0;                   ///< of the step, without waiting for others
  std::vector<double> rank_seconds{};       ///< own_seconds of all ranks; filled in by agree
};

/// The verdict of all ranks from that of each; one small all_gather.
StepVerdict agree(Communicator& ranks, const StepVerdict& mine);

}  // namespace nibble
