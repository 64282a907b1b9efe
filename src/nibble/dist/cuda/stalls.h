// How long the device's work has stood still because an operation of all ranks was not done: what is left of a step
// without it is this rank's own time. Two events around each wait; the CPU never waits for them.
//
//   stream()   ... work | before | wait: done | after | work that reads the result
//                              |<--- stall --->|
#pragma once

#include <cuda_runtime_api.h>

#include <deque>
#include <vector>

namespace nibble::nccl {

class Stalls {
 public:
  Stalls() = default;
  ~Stalls();
  Stalls(const Stalls&) = delete;
  Stalls& operator=(const Stalls&) = delete;

  /// Makes the device's later work wait for `done`.
  void wait_for(cudaEvent_t done);
  /// Of all waits that are over.
  double seconds();

 private:
  struct Stall {
    cudaEvent_t before, after;
  };
  void collect();

  std::deque<Stall> under_way_;
  std::vector<Stall> spare_;
  double seconds_ = 0;
};

}  // namespace nibble::nccl
