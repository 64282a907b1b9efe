#include "nibble/dist/hosts.h"

#include <unistd.h>

#include <array>
#include <cstring>

#include "nibble/tensor/device.h"

namespace nibble {

std::vector<std::string> hosts_of(Communicator& communicator) {
  constexpr std::int64_t kBytes = 64;
  std::array<std::uint8_t, kBytes> mine{};
  std::array<char, kBytes> name{};
  if (gethostname(name.data(), name.size() - 1) == 0) std::memcpy(mine.data(), name.data(), name.size());
  const std::int64_t bytes = kBytes * communicator.size();
  std::vector<std::uint8_t> all(static_cast<std::size_t>(bytes));
  const Tensor received = Tensor::of(all.data(), {bytes});
  const OwnedTensor sent_there = copy_to(Tensor::of(mine.data(), {kBytes}), communicator.device());
  const OwnedTensor received_there(DType::U8, {bytes}, communicator.device());
  communicator.all_gather(sent_there, received_there);
  copy(received_there, received);
  std::vector<std::string> hosts;
  for (std::int64_t at = 0; at < bytes; at += kBytes) {
    const auto* from = reinterpret_cast<const char*>(all.data() + at);
    hosts.emplace_back(from, strnlen(from, kBytes));
  }
  return hosts;
}

}  // namespace nibble
