// A token shard. Its header carries its own checksum, which no mutation would keep: half of the inputs get a true one.
#include "nibble/data/shard.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  constexpr std::size_t kChecksumAt = 56;
  static MemoryFile file;
  std::string shard_bytes(bytes.substr(0, bytes.empty() ? 0 : bytes.size() - 1));
  if (!bytes.empty() && bytes.back() % 2 == 0 && shard_bytes.size() >= kChecksumAt + 8) {
    const std::uint64_t checksum = xxh3_64(std::as_bytes(std::span(shard_bytes)).first(kChecksumAt));
    std::memcpy(shard_bytes.data() + kChecksumAt, &checksum, sizeof checksum);
  }
  const Shard shard(file.hold(shard_bytes));
  check(static_cast<std::size_t>(shard.tokens()) <= shard_bytes.size(), "a token takes its bytes");
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(shard.tokens()));
  shard.copy(0, tokens);
  for (const std::int32_t token : tokens) {
    check(token >= 0 && static_cast<std::uint64_t>(token) < shard.header().vocab_size, "a token is in the vocabulary");
  }
  shard.verify();
}

}  // namespace nibble::fuzz
