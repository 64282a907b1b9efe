// Times of device work, between two events on the stream, and the rate of a copy on this GPU, now: the limit that a
// kernel bound by memory is held against.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>

#include "nibble/tensor/cuda/runtime.h"
#include "nibble/tensor/device.h"

namespace nibble::bench {

class CudaTimer {
 public:
  CudaTimer() {
    cuda::check(cudaEventCreate(&begin_), "creating an event");
    cuda::check(cudaEventCreate(&end_), "creating an event");
  }
  ~CudaTimer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  CudaTimer(const CudaTimer&) = delete;
  CudaTimer& operator=(const CudaTimer&) = delete;

  /// Seconds that the device works on f().
  template <class F>
  double operator()(F&& f) const {
    cuda::check(cudaEventRecord(begin_, cuda::stream()), "recording an event");
    f();
    cuda::check(cudaEventRecord(end_, cuda::stream()), "recording an event");
    cuda::check(cudaEventSynchronize(end_), "waiting");
    float milliseconds = 0;
    cuda::check(cudaEventElapsedTime(&milliseconds, begin_, end_), "reading an event");
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t begin_{}, end_{};
};

/// Bytes read plus bytes written a second by a copy of 512 MiB on the device; best of ten.
inline double cuda_copy_rate() {
  constexpr std::int64_t kBytes = std::int64_t{512} << 20;
  const OwnedTensor from(DType::U8, {kBytes}, Device::Cuda);
  const OwnedTensor to(DType::U8, {kBytes}, Device::Cuda);
  const CudaTimer timer;
  double best = 0;
  for (int round = 0; round < 10; ++round) {
    best = std::max(best, 2.0 * static_cast<double>(kBytes) / timer([&] { copy(from, to); }));
  }
  return best;
}

/// The loop of a benchmark with manual time: calls f, which moves `bytes` to and from memory, and reports that rate and
/// its share of a copy's, which is measured right after.
template <class F>
void measure_traffic(benchmark::State& state, double bytes, F&& f) {
  const CudaTimer timer;
  f();  // the first call may load code and grow arenas
  double seconds = 0;
  for (auto _ : state) {
    const double once = timer(f);
    state.SetIterationTime(once);
    seconds += once;
  }
  const double rate = bytes * static_cast<double>(state.iterations()) / seconds;
  state.counters["GB/s"] = rate * 1e-9;
  state.counters["of_copy"] = rate / cuda_copy_rate();
}

}  // namespace nibble::bench
