// Writes a run's checkpoints (train/checkpoint.h), each rank its part, beside the training where that is wanted.
//
//   step of the run    | save |  training  |  training  | complete |  training ...
//   every rank           copy
//     its thread                write, sync, checksum
//   rank 0               folder                                        state.json, sync, rename, old ones removed
//
// `save` meets the other ranks once and copies; the rest is done by a thread. Ranks tell each other after each step
// whether theirs is done (train/step_verdict.h); when all are, `complete` gathers the checksums and rank 0 makes the
// folder a checkpoint. A job that dies before leaves a folder aside that does not count, and that the next save
// removes; one that another, living process writes stays (io/atomic_file.h).
//
// Copies stay on a GPU's host in pinned memory, and with the CPU in as much memory as this rank writes; they are kept
// for the next save. Without `asynchronous` a save returns when the checkpoint is there, and copies nothing on the CPU.
#pragma once

#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <vector>

#include "nibble/io/atomic_file.h"
#include "nibble/train/checkpoint.h"
#include "nibble/train/state_snapshot.h"

namespace nibble {

class CheckpointWriter {
 public:
  /// After each save all but the newest `keep` checkpoints are removed. `ranks` must outlive it.
  CheckpointWriter(Communicator& ranks, std::filesystem::path run, Device device, std::int64_t keep, bool asynchronous);
  /// A job of one process completes what is under way; of several ranks, where one may have failed, it is lost.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Begins to write RUN/checkpoints/step-N; all ranks call it after the same step. Waits for the save before it. The
  /// model changes only in that it allocates recipe state that has not begun yet. What a thread failed with is thrown
  /// by the next call of anything here.
  void save(const TrainState& state, Llama& model, const Optimizer& optimizer);
  /// Whether this rank's part of a save that is not complete is written.
  bool part_written();
  /// Completes the save; all ranks call it after the same step, once the parts of all are written.
  void complete();
  /// Waits until what was saved is complete, on all ranks; all of them call it.
  void finish();

  /// Memory of copies now.
  std::size_t bytes() const { return snapshot_.bytes(); }

 private:
  using Sum = std::pair<std::string, std::uint64_t>;  // of the file of a kind

  std::vector<Sum> write_parts(const std::filesystem::path& folder, const std::string& part_of);
  /// Rank 0's folder, on every rank.
  std::filesystem::path agree_on_folder(const std::filesystem::path& of_rank_0);

  Communicator& ranks_;
  std::filesystem::path run_;
  std::int64_t keep_;
  bool asynchronous_;
  StateSnapshot snapshot_;
  TrainState state_;                            // of the save under way
  std::unique_ptr<AtomicDirectory> directory_;  // likewise, on rank 0
  bool under_way_ = false;                      // until all ranks know that it is over
  std::optional<std::vector<Sum>> written_;     // this rank's part
  // Last, so that their threads end before what they use.
  std::future<std::vector<Sum>> writing_;
  std::future<void> completing_;
};

/// One checkpoint of one process, at once.
void save_checkpoint(const std::filesystem::path& run, const TrainState& state, Llama& model,
                     const Optimizer& optimizer, std::int64_t keep);

}  // namespace nibble
