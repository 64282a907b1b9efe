#include "nibble/dist/hosts.h"

#include <unistd.h>

#include <array>
#include <cstring>

#include "nibble/dist/gather.h"

namespace nibble {

std::vector<std::string> hosts_of(Communicator& communicator) {
  using Name = std::array<char, 64>;
  Name mine{};
  if (gethostname(mine.data(), mine.size() - 1) != 0) mine = {};
  std::vector<std::string> hosts;
  for (const Name& name : gather_value(communicator, mine)) {
    hosts.emplace_back(name.data(), strnlen(name.data(), name.size()));
  }
  return hosts;
}

}  // namespace nibble
