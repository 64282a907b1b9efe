// A prepared data set: the directory that 'nibble data prepare' writes.
//
//   DIR/ train-00000.bin train-00001.bin ...   token shards (data/shard.h); all but the last are equally long
//        valid.bin                             absent when no validation data was asked for
//        tokenizer.model                       the tokenizer that made them, or tokenizer.json and
//                                              tokenizer_config.json
//        meta.json                             DatasetMeta
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/data/shard.h"

namespace nibble {

struct SplitMeta {
  std::int64_t tokens = 0;
  std::int64_t documents = 0;
  std::int64_t bytes = 0;           ///< of the documents' text, uncompressed
  std::vector<std::string> shards;  ///< file names in order
  std::int64_t counted = 0;         ///< tokens that count in the loss; written where the set is masked
};

struct DatasetMeta {
  std::int64_t vocab_size = 0;
  std::uint64_t tokenizer_hash = 0;
  SplitMeta train;
  SplitMeta valid;
  std::string tokenizer;  ///< the name of its file in the directory
  /// Whether the shards have loss masks: prompts and completions (data/chat_record.h). Then meta.json has the format
  /// "nibble-dataset-2".
  bool masked = false;
  std::string chat_template;  ///< its name, where one was used
};

inline constexpr const char* kDatasetMetaFile = "meta.json";

void write_dataset_meta(const std::filesystem::path& directory, const DatasetMeta& meta);
/// UserError when the directory is not a prepared data set.
DatasetMeta read_dataset_meta(const std::filesystem::path& directory);

/// The shards of one split as one sequence of tokens.
class ShardSet {
 public:
  /// Opens shards in the given order. UserError when there are none, or when they differ in vocabulary or tokenizer.
  explicit ShardSet(const std::vector<std::filesystem::path>& paths);
  /// Opens the split "train" or "valid" of a prepared data set; UserError when a shard is missing or not the one that
  /// meta.json describes.
  static ShardSet open(const std::filesystem::path& directory, std::string_view split);

  std::int64_t tokens() const { return begins_.back(); }
  bool masked() const;           ///< whether a shard has a loss mask
  std::int64_t counted() const;  ///< tokens that count in the loss; without a mask, all
  std::int64_t vocab_size() const;
  std::uint64_t tokenizer_hash() const;
  /// A hash of all headers: a checkpoint carries it, so that a run is not resumed on other data.
  std::uint64_t fingerprint() const;
  /// Copies tokens [begin, begin + out.size()) across shard borders.
  void copy(std::int64_t begin, std::span<std::int32_t> out) const;
  /// Whether tokens [begin, begin + out.size()) count in the loss: 1 or 0, 1 throughout in shards without a mask.
  void copy_counted(std::int64_t begin, std::span<std::uint8_t> out) const;
  /// Reads everything once: UserError that names the first shard whose checksum is wrong.
  void verify() const;

 private:
  template <class T, class Copy>
  void copy_pieces(std::int64_t begin, std::span<T> out, Copy&& copy) const;
  std::vector<Shard> shards_;
  std::vector<std::int64_t> begins_;  // first token of each shard, and the end
};

}  // namespace nibble
