// Pinned host memory on the way to or from the GPU: what tensor/staging.cpp asks of a backend.
#pragma once

#include <cstddef>

struct CUevent_st;

namespace nibble::cuda {

/// Host memory that the GPU reads and writes by itself, and the event after its last copy.
class PinnedCopy {
 public:
  PinnedCopy() = default;
  ~PinnedCopy();  // NOLINT(performance-trivially-destructible): with CUDA it has work to do
  PinnedCopy(const PinnedCopy&) = delete;
  PinnedCopy& operator=(const PinnedCopy&) = delete;

  void to_device(const void* host, void* device, std::size_t bytes);
  void begin_to_host(const void* device, std::size_t bytes);
  /// The pinned memory, once the last copy is done.
  void* wait();

 private:
  void reserve(std::size_t bytes);
  void record();

  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
  CUevent_st* done_ = nullptr;
};

}  // namespace nibble::cuda
