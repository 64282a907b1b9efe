// What the tests of the ops share: seeded random tensors, their values as doubles, and a number of threads that is
// put back afterwards.
#pragma once

#include <omp.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "nibble/tensor/tensor.h"

namespace nibble::testing {

inline void fill_uniform(const Tensor& tensor, std::uint32_t seed, float low = -1.0f, float high = 1.0f) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  dispatch_float(tensor.dtype(), [&]<class T>(T*) {
    T* p = tensor.data<T>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i) p[i] = from_float<T>(uniform(engine));
  });
}

inline OwnedTensor random_tensor(DType dtype, std::initializer_list<std::int64_t> shape, std::uint32_t seed,
                                 float low = -1.0f, float high = 1.0f) {
  OwnedTensor tensor(dtype, shape);
  fill_uniform(tensor, seed, low, high);
  return tensor;
}

inline std::vector<double> doubles(const Tensor& tensor) {
  std::vector<double> values(static_cast<std::size_t>(tensor.numel()));
  dispatch_float(tensor.dtype(), [&]<class T>(T*) {
    const T* p = tensor.data<T>();
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(to_float(p[i]));
  });
  return values;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

/// Half a unit in the last place of the storage type, relative: what rounding the exact result may cost.
inline double rounding(DType dtype) { return dtype == DType::BF16 ? 0x1p-8 : 0x1p-24; }

class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace nibble::testing
