#include "nibble/dist/gather.h"

#include "nibble/tensor/device.h"

namespace nibble {

std::vector<std::byte> gather_bytes(Communicator& communicator, std::span<const std::byte> mine) {
  std::vector<std::byte> all(mine.begin(), mine.end());
  if (communicator.size() == 1) return all;
  const auto bytes = static_cast<std::int64_t>(mine.size());
  const std::int64_t of_all = bytes * communicator.size();
  const OwnedTensor sent = copy_to(Tensor(all.data(), DType::U8, {bytes}), communicator.device());
  const OwnedTensor received(DType::U8, {of_all}, communicator.device());
  communicator.all_gather(sent, received);
  all.resize(static_cast<std::size_t>(of_all));
  copy(received, Tensor(all.data(), DType::U8, {of_all}));
  return all;
}

}  // namespace nibble
