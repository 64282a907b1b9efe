// Small figures of all ranks, on all of them: counts, times, names, verdicts.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "nibble/dist/communicator.h"

namespace nibble {

/// The bytes of every rank, as many each, in the order of ranks; one small all_gather.
std::vector<std::byte> gather_bytes(Communicator& communicator, std::span<const std::byte> mine);

/// The values of every rank, as many each, in the order of ranks; one small all_gather.
template <class T>
std::vector<T> gather_values(Communicator& communicator, std::span<const T> mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::vector<std::byte> bytes = gather_bytes(communicator, std::as_bytes(mine));
  std::vector<T> all(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(all.data(), bytes.data(), bytes.size());
  return all;
}
/// One of each rank.
template <class T>
std::vector<T> gather_value(Communicator& communicator, const T& mine) {
  return gather_values(communicator, std::span<const T>(&mine, 1));
}

}  // namespace nibble
