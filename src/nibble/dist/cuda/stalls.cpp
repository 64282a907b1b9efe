#include "nibble/dist/cuda/stalls.h"

#include "nibble/tensor/cuda/runtime.h"

namespace nibble::nccl {

using cuda::check;

Stalls::~Stalls() {
  const auto destroy = [](const Stall& stall) {
    cudaEventDestroy(stall.before);
    cudaEventDestroy(stall.after);
  };
  for (const Stall& stall : under_way_) destroy(stall);
  for (const Stall& stall : spare_) destroy(stall);
}

void Stalls::wait_for(cudaEvent_t done) {
  collect();
  Stall stall{};
  if (spare_.empty()) {
    check(cudaEventCreate(&stall.before), "creating an event");
    check(cudaEventCreate(&stall.after), "creating an event");
  } else {
    stall = spare_.back();
    spare_.pop_back();
  }
  under_way_.push_back(stall);
  check(cudaEventRecord(stall.before, cuda::stream()), "recording an event");
  check(cudaStreamWaitEvent(cuda::stream(), done, 0), "waiting for an operation of all ranks");
  check(cudaEventRecord(stall.after, cuda::stream()), "recording an event");
}

double Stalls::seconds() {
  collect();
  return seconds_;
}

void Stalls::collect() {
  while (!under_way_.empty()) {
    const Stall& stall = under_way_.front();
    const cudaError_t status = cudaEventQuery(stall.after);
    if (status == cudaErrorNotReady) return;
    check(status, "an operation of all ranks");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, stall.before, stall.after), "reading the time of a wait");
    seconds_ += 1e-3 * static_cast<double>(milliseconds);
    spare_.push_back(stall);
    under_way_.pop_front();
  }
}

}  // namespace nibble::nccl
