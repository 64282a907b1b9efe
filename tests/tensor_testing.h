// Small helpers for tests of kernels on tensors.
#pragma once

#include <omp.h>

#include <cstring>
#include <initializer_list>
#include <random>
#include <vector>

#include "nibble/tensor/tensor.h"

namespace nibble::testing_support {

/// Normal values times `amplitude`, F32 or BF16; the same for the same seed.
inline OwnedTensor random_tensor(DType dtype, std::initializer_list<std::int64_t> shape, std::uint32_t seed,
                                 float amplitude = 1.0f) {
  OwnedTensor x(DType::F32, shape);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, amplitude);
  for (std::int64_t i = 0; i < x.view().numel(); ++i) x.view().data<float>()[i] = normal(random);
  OwnedTensor y(dtype, shape);
  convert(x, y);
  return y;
}

inline OwnedTensor tokens_tensor(const std::vector<std::int32_t>& tokens) {
  OwnedTensor x(DType::I32, {static_cast<std::int64_t>(tokens.size())});
  if (!tokens.empty()) std::memcpy(x.view().raw(), tokens.data(), tokens.size() * sizeof(std::int32_t));
  return x;
}

inline std::vector<double> doubles(const Tensor& x) {
  std::vector<double> values;
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    for (std::int64_t i = 0; i < x.numel(); ++i) values.push_back(static_cast<double>(to_float(x.data<T>()[i])));
  });
  return values;
}

inline std::vector<unsigned char> bytes_of(const Tensor& x) {
  const auto* p = static_cast<const unsigned char*>(x.raw());
  return {p, p + x.bytes()};
}

/// Runs the code of a scope on `count` threads.
class ThreadCount {
 public:
  explicit ThreadCount(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

}  // namespace nibble::testing_support
