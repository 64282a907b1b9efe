// The meta.json of a prepared data set beside a sound shard of four tokens, train-00000.bin.
#include "nibble/data/dataset.h"

#include <array>

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/data/loader.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  static const InputFolder folder;
  static const bool once = [] {
    ShardWriter writer(folder.path() / "train-00000.bin", 300, 1);
    writer.append(std::array<std::int32_t, 4>{1, 2, 299, 2});
    writer.commit();
    return true;
  }();
  check(once, "the shard is written");
  folder.write("meta.json", bytes);
  Loader loader(ShardSet::open(folder.path(), "train"), 2, LoaderOrder::Shuffled, 1);
  std::array<std::int32_t, 2> tokens{}, targets{};
  loader.next_batch(1, tokens.data(), targets.data());
}

}  // namespace nibble::fuzz
