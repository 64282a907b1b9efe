#include "nibble/data/dataset.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "nibble/io/json.h"
#include "nibble/tensor/error.h"
#include "nibble/tensor/parallel.h"

namespace nibble {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kFormat = "nibble-dataset-1";
constexpr const char* kMaskedFormat = "nibble-dataset-2";

json to_json(const SplitMeta& split, bool masked) {
  json value = {
      {"tokens", split.tokens}, {"documents", split.documents}, {"bytes", split.bytes}, {"shards", split.shards}};
  if (masked) value["counted_tokens"] = split.counted;
  return value;
}

SplitMeta split_from_json(const json& value, bool masked, const std::string& where) {
  return {integer_at(value, "tokens", where), integer_at(value, "documents", where), integer_at(value, "bytes", where),
          value.at("shards"), integer_at(value, masked ? "counted_tokens" : "tokens", where)};
}

}  // namespace

void write_dataset_meta(const fs::path& directory, const DatasetMeta& meta) {
  nlohmann::ordered_json value;
  value["format"] = meta.masked ? kMaskedFormat : kFormat;
  value["vocab_size"] = meta.vocab_size;
  value["tokenizer"] = meta.tokenizer;
  value["tokenizer_xxh3"] = hex64(meta.tokenizer_hash);
  if (!meta.chat_template.empty()) value["chat_template"] = meta.chat_template;
  value["train"] = to_json(meta.train, meta.masked);
  value["valid"] = to_json(meta.valid, meta.masked);
  write_file_atomic(directory / kDatasetMetaFile, value.dump(2) + "\n");
}

DatasetMeta read_dataset_meta(const fs::path& directory) {
  const fs::path path = directory / kDatasetMetaFile;
  if (!fs::exists(path)) {
    user_error("'{}' is not a prepared data set (it has no {}); make one with 'nibble data prepare'",
               directory.string(), kDatasetMetaFile);
  }
  const json value = read_json(path);
  try {
    DatasetMeta meta;
    meta.masked = value.at("format") == kMaskedFormat;
    if (!meta.masked && value.at("format") != kFormat) {
      user_error("'{}' has the format {} where '{}' or '{}' is expected; prepare the data again", path.string(),
                 value.at("format").dump(), kFormat, kMaskedFormat);
    }
    meta.vocab_size = integer_at(value, "vocab_size", path.string());
    meta.tokenizer_hash = std::stoull(value.at("tokenizer_xxh3").get<std::string>(), nullptr, 16);
    meta.train = split_from_json(value.at("train"), meta.masked, path.string());
    meta.valid = split_from_json(value.at("valid"), meta.masked, path.string());
    meta.tokenizer = value.at("tokenizer");
    meta.chat_template = value.value("chat_template", "");
    return meta;
  } catch (const json::exception&) {
    user_error("'{}' lacks a field or has one of the wrong type; prepare the data again", path.string());
  } catch (const std::logic_error&) {
    user_error("'{}' holds a malformed tokenizer_xxh3; prepare the data again", path.string());
  }
}

ShardSet::ShardSet(const std::vector<fs::path>& paths) : begins_{0} {
  if (paths.empty()) user_error("no token shard is named");
  for (const fs::path& path : paths) {
    const Shard& shard = shards_.emplace_back(path);
    const ShardHeader& first = shards_.front().header();
    if (shard.header().vocab_size != first.vocab_size || shard.header().tokenizer_hash != first.tokenizer_hash) {
      user_error("the token shards '{}' and '{}' were made with different tokenizers; prepare the data again",
                 shards_.front().path().string(), path.string());
    }
    begins_.push_back(begins_.back() + shard.tokens());
  }
}

ShardSet ShardSet::open(const fs::path& directory, std::string_view split) {
  require(split == "train" || split == "valid", "a data set has no split '{}'", split);
  const DatasetMeta meta = read_dataset_meta(directory);
  const SplitMeta& wanted = split == "train" ? meta.train : meta.valid;
  if (wanted.shards.empty()) {
    user_error("the data set '{}' has no {} split; prepare it with validation data", directory.string(), split);
  }
  std::vector<fs::path> paths;
  for (const std::string& name : wanted.shards) paths.push_back(directory / name);
  ShardSet set(paths);
  if (set.tokens() != wanted.tokens || set.counted() != wanted.counted || set.vocab_size() != meta.vocab_size ||
      set.tokenizer_hash() != meta.tokenizer_hash) {
    user_error("the {} shards in '{}' are not those that its {} describes; prepare the data again", split,
               directory.string(), kDatasetMetaFile);
  }
  return set;
}

std::int64_t ShardSet::vocab_size() const { return static_cast<std::int64_t>(shards_.front().header().vocab_size); }
std::uint64_t ShardSet::tokenizer_hash() const { return shards_.front().header().tokenizer_hash; }

std::uint64_t ShardSet::fingerprint() const {
  Xxh3Stream hash;
  for (const Shard& shard : shards_) {
    const ShardHeader& h = shard.header();
    const std::array<std::uint64_t, 4> words = {h.vocab_size, h.tokens, h.payload_checksum, h.tokenizer_hash};
    hash.update(std::as_bytes(std::span(words)));
  }
  return hash.digest();
}

bool ShardSet::masked() const {
  return std::any_of(shards_.begin(), shards_.end(), [](const Shard& shard) { return shard.header().masked; });
}

std::int64_t ShardSet::counted() const {
  std::int64_t counted = 0;
  for (const Shard& shard : shards_) counted += static_cast<std::int64_t>(shard.header().counted);
  return counted;
}

/// Calls copy(shard, begin in the shard, part of out) for each shard that has a part.
template <class T, class Copy>
void ShardSet::copy_pieces(std::int64_t begin, std::span<T> out, Copy&& copy) const {
  require(begin >= 0 && begin <= tokens() && static_cast<std::int64_t>(out.size()) <= tokens() - begin,
          "tokens [{}, +{}) of {}", begin, out.size(), tokens());
  auto i = static_cast<std::size_t>(std::upper_bound(begins_.begin(), begins_.end(), begin) - begins_.begin()) - 1;
  while (!out.empty()) {
    const auto n = std::min<std::size_t>(out.size(), static_cast<std::size_t>(begins_[i + 1] - begin));
    copy(shards_[i], begin - begins_[i], out.first(n));
    out = out.subspan(n);
    begin += static_cast<std::int64_t>(n);
    ++i;
  }
}

void ShardSet::copy(std::int64_t begin, std::span<std::int32_t> out) const {
  copy_pieces(begin, out,
              [](const Shard& shard, std::int64_t at, std::span<std::int32_t> part) { shard.copy(at, part); });
}

void ShardSet::copy_counted(std::int64_t begin, std::span<std::uint8_t> out) const {
  copy_pieces(begin, out,
              [](const Shard& shard, std::int64_t at, std::span<std::uint8_t> part) { shard.copy_counted(at, part); });
}

void ShardSet::verify() const {
  parallel_for(static_cast<std::int64_t>(shards_.size()), 1,
               [&](std::int64_t b, std::int64_t) { shards_[static_cast<std::size_t>(b)].verify(); });
}

}  // namespace nibble
