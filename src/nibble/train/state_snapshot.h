// What one rank writes of a run's state: its rows of every tensor, so that the parts of all ranks are the whole once.
//
//   held whole by every rank    matrices: rows RowPieces(rows, ranks).of(rank) (dist/row_pieces.h); vectors: rank 0
//   held in pieces              the rows that this rank has
//
// Weights go by their Hugging Face names, so a rank's rows of a fused matrix are rows of several tensors.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "nibble/dist/communicator.h"
#include "nibble/dist/row_pieces.h"
#include "nibble/io/safetensors_parts.h"
#include "nibble/model/llama.h"
#include "nibble/tensor/staging.h"
#include "nibble/train/optimizer.h"

namespace nibble {

class StateSnapshot {
 public:
  /// The tensors of one file; all ranks have the same files, some perhaps without a tensor.
  struct File {
    std::string stem;  ///< "model", "optimizer"; "recipe", where that has state
    std::vector<SafetensorsRows> tensors;
  };

  /// With `copies` the state may change after `take`; on a GPU it may in any case.
  StateSnapshot(const Ranks& ranks, Device device, bool copies) : ranks_(ranks), device_(device), copies_(copies) {}

  /// The state as the device's work so far leaves it. On a GPU nobody waits for the copies. The model changes only in
  /// that it allocates recipe state that has not begun yet.
  void take(Llama& model, const Optimizer& optimizer);
  /// What was taken, once the copies are there; may be called from another thread. Its tensors stay until the next
  /// `take` or `release`, or, where nothing was copied, until the state changes.
  std::vector<File> files();
  /// Gives the memory of the copies back.
  void release();
  /// Memory of the copies, which lies with the CPU.
  std::size_t bytes() const { return copied_bytes_; }

 private:
  struct Held {
    std::size_t file = 0;
    StateTensor state;
    Staging* copy = nullptr;  // none: state.rows stay as they are
  };
  void take_weights(Llama& model);
  /// This rank's share of a tensor.
  void take(StateTensor state);
  /// `passing`: the rows' memory is about to be used for something else.
  void hold(StateTensor state, bool passing);
  RowRange share(std::span<const std::int64_t> shape) const;

  Ranks ranks_;
  Device device_;
  bool copies_;
  std::vector<std::string> stems_;  // of the files so far
  std::vector<Held> held_;
  std::vector<std::size_t> to_copy_;  // of held_, on the CPU
  std::deque<Staging> memory_;        // used again by the next snapshot, tensor by tensor
  std::size_t used_ = 0;              // of memory_
  std::size_t copied_bytes_ = 0;
};

}  // namespace nibble
