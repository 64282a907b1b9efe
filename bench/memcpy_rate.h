// The rate of memcpy on this machine, now: the limit that a kernel bound by memory is held against.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <vector>

#include "nibble/tensor/parallel.h"

namespace nibble::bench {

/// Bytes read plus bytes written a second by a copy of 64 MiB on all threads; best of seven.
inline double memcpy_rate() {
  constexpr std::int64_t kBytes = std::int64_t{64} << 20;
  std::vector<char> from(kBytes, 1);
  std::vector<char> to(kBytes, 2);
  double best = 0;
  for (int round = 0; round < 7; ++round) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for(kBytes, 1 << 20, [&](std::int64_t b, std::int64_t e) {
      std::memcpy(to.data() + b, from.data() + b, static_cast<std::size_t>(e - b));
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2.0 * static_cast<double>(kBytes) / seconds.count());
  }
  return best;
}

/// Made just before a benchmark's loop; `report` just after it says how many bytes a second the loop moved to and from
/// memory, and that rate as a fraction of memcpy's.
class TrafficMeter {
 public:
  void report(benchmark::State& state, double bytes_an_iteration) const {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
    const double rate = bytes_an_iteration * static_cast<double>(state.iterations()) / seconds.count();
    state.counters["GB/s"] = rate * 1e-9;
    state.counters["of_memcpy"] = rate / memcpy_rate();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace nibble::bench
