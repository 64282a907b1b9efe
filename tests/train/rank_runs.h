// Runs on several ranks that are threads.
#pragma once

#include "tests/thread_ranks.h"
#include "tests/train/small_run.h"

namespace nibble {

using testing_support::on_thread_ranks;
using testing_support::ThreadRank;

/// Six micro-batches a step, in a model that every recipe takes.
inline TrainConfig config_of_ranks(const std::filesystem::path& data, int steps = 4) {
  TrainConfig config = small_config(data, steps);
  config.model.width = config.model.ffn = 128;
  config.model.seq = 128;
  config.batch = 6;
  config.micro_batch = 1;
  config.deterministic = true;
  config.validate_every = 3;
  config.validate_sequences = 2;  // fewer than ranks
  config.quality_every = 2;
  config.checkpoint_every = 2;
  return config;
}

/// Whether the run is complete, on every rank the same answer.
inline bool train_on(int size, const TrainConfig& config, const Recipe& recipe, const std::filesystem::path& run,
                     Resume resume = Resume::No, std::int64_t until = 0) {
  std::atomic<int> complete{0};
  std::vector<std::atomic<bool>> stops(static_cast<std::size_t>(size));
  on_thread_ranks(size, [&](ThreadRank& rank) {
    rank.late = true;  // whoever reads what is gathered before it arrived reads something else
    TrainCallbacks callbacks;
    callbacks.on_step = [&](const StepReport& r) {
      EXPECT_EQ(rank.rank(), 0);
      // Only the last rank is asked to stop.
      if (r.step == until) stops.back() = true;
    };
    if (train(rank, config, recipe, run, resume, stops[static_cast<std::size_t>(rank.rank())], callbacks)) ++complete;
  });
  EXPECT_TRUE(complete == 0 || complete == size);
  return complete == size;
}

}  // namespace nibble
