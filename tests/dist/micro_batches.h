// Gradients of a step's micro-batches, and their sum by the definition.
#pragma once

#include <vector>

#include "nibble/dist/ordered_sum.h"
#include "nibble/tensor/device.h"
#include "tests/tensor_testing.h"

namespace nibble::testing_support {

/// Values of many magnitudes, so that every order of additions gives other bits.
inline OwnedTensor gradient_of(std::int64_t position, std::int64_t numel, DType dtype, std::uint32_t seed = 1) {
  OwnedTensor wide = random_tensor(DType::F32, {numel}, seed * 1000 + static_cast<std::uint32_t>(position));
  auto* p = wide.view().data<float>();
  for (std::int64_t i = 0; i < numel; ++i) p[i] *= static_cast<float>(1 << ((i * 7 + position * 3) % 20));
  OwnedTensor x(dtype, {numel});
  convert(wide, x);
  return x;
}

/// S(lo, hi) by recursion: halves meet at the largest power of two below the length, which is where the tree of
/// ordered_sum.h has its nodes. Each addition is rounded to the dtype.
inline std::vector<float> sum_of_positions(std::int64_t lo, std::int64_t hi, std::int64_t numel, DType dtype,
                                           std::uint32_t seed = 1) {
  if (hi - lo == 1) {
    const std::vector<double> leaf = doubles(gradient_of(lo, numel, dtype, seed));
    return {leaf.begin(), leaf.end()};
  }
  std::int64_t half = 1;
  while (half * 2 < hi - lo) half *= 2;
  std::vector<float> left = sum_of_positions(lo, lo + half, numel, dtype, seed);
  const std::vector<float> right = sum_of_positions(lo + half, hi, numel, dtype, seed);
  for (std::size_t i = 0; i < left.size(); ++i) {
    left[i] += right[i];
    if (dtype == DType::BF16) left[i] = bf16_round(left[i]);
  }
  return left;
}

/// One step's sum of `count` micro-batches as the communicator's ranks compute it, gathered. Every gradient is written
/// to the same memory, as a model does.
inline std::vector<double> summed(Communicator& communicator, OrderedSum& sum, std::int64_t count, std::int64_t numel,
                                  DType dtype, std::uint32_t seed = 1) {
  const Positions mine = positions_of(communicator.rank(), communicator.size(), count);
  OwnedTensor gradient(dtype, {numel}, communicator.device());
  for (std::int64_t p = mine.begin; p < mine.end; ++p) {
    copy(gradient_of(p, numel, dtype, seed), gradient);
    sum.add(gradient);
  }
  sum.start_exchange();
  OwnedTensor piece(dtype, {numel / communicator.size()}, communicator.device());
  sum.finish(piece);
  OwnedTensor whole(dtype, {numel}, communicator.device());
  communicator.all_gather(piece, whole);
  return doubles(copy_to(whole, Device::Cpu));
}

}  // namespace nibble::testing_support
