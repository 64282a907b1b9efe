// The number of OpenMP threads of one benchmark.
#pragma once

#include <omp.h>

#include <cstdint>

namespace nibble::bench {

/// Sets the number of threads for a scope.
class Threads {
 public:
  explicit Threads(std::int64_t n) : before_(omp_get_max_threads()) { omp_set_num_threads(static_cast<int>(n)); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace nibble::bench
