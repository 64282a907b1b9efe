#include "nibble/tensor/cuda/staging.h"

#include <cstring>

#include "nibble/tensor/cuda/graph.h"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

PinnedCopy::~PinnedCopy() {
  if (done_ == nullptr) return;
  cudaEventSynchronize(done_);
  cudaEventDestroy(done_);
  cudaFreeHost(memory_);
}

void PinnedCopy::to_device(const void* host, void* device, std::size_t bytes) {
  if (bytes == 0) return;
  reserve(bytes);
  std::memcpy(memory_, host, bytes);
  const Uncaptured at_once;
  check(cudaMemcpyAsync(device, memory_, bytes, cudaMemcpyHostToDevice, stream()), "copying to the GPU");
  record();
}

void PinnedCopy::begin_to_host(const void* device, std::size_t bytes) {
  if (bytes == 0) return;
  reserve(bytes);
  const Uncaptured at_once;
  check(cudaMemcpyAsync(memory_, device, bytes, cudaMemcpyDeviceToHost, stream()), "copying to the CPU");
  record();
}

void* PinnedCopy::wait() {
  if (done_ != nullptr) check(cudaEventSynchronize(done_), "waiting for a copy");
  return memory_;
}

// The memory is that of the last copy, until it is done.
void PinnedCopy::reserve(std::size_t bytes) {
  wait();
  if (done_ == nullptr) check(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "creating an event");
  if (bytes <= bytes_) return;
  if (memory_ != nullptr) check(cudaFreeHost(memory_), "freeing pinned memory");
  memory_ = nullptr;
  bytes_ = 0;
  check(cudaMallocHost(&memory_, bytes), "allocating pinned memory");
  bytes_ = bytes;
}

void PinnedCopy::record() { check(cudaEventRecord(done_, stream()), "recording an event"); }

}  // namespace nibble::cuda
