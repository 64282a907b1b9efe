#include "nibble/tensor/cuda/runtime.h"

#include "nibble/tensor/cuda/graph.h"
#include "nibble/tensor/cuda/memory.h"

namespace nibble::cuda {

void check(cudaError_t result, const char* what) {
  if (result != cudaSuccess) {
    throw InternalError(fmt::format("{} failed on the GPU: {}", what, cudaGetErrorString(result)));
  }
}

cudaStream_t stream() {
  // Not the legacy default stream, which cannot be captured into a graph.
  static const cudaStream_t created = [] {
    cudaStream_t s = nullptr;
    check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "creating a stream");
    return s;
  }();
  return created;
}

int multiprocessors() {
  static const int count = device().multiprocessors;
  return count;
}

void to_host(void* host, const void* device, std::size_t bytes) {
  if (bytes == 0) return;
  const Uncaptured at_once;
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream()), "copying to the CPU");
  check(cudaStreamSynchronize(stream()), "copying to the CPU");
}

void to_device(void* device, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  const Uncaptured at_once;
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream()), "copying to the GPU");
  check(cudaStreamSynchronize(stream()), "copying to the GPU");
}

}  // namespace nibble::cuda
