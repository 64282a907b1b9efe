// Token shards: the training data as it lies on disk. All numbers are little-endian.
//
//   byte  0        8         12        16           24            32            40               48         56       64
//         +--------+---------+---------+------------+-------------+-------------+----------------+----------+--------+
//         | magic  | u32     | u32     | u64        | u64         | u64 XXH3-64 | u64 XXH3-64 of | u64      | u64    |
//         | NIBTOK | header  | bytes a | vocabulary | number of   | of the      | the tokenizer  | reserved | XXH3   |
//         | 01     | bytes 64| token   | size       | tokens n    | payload     | model file     | 0        | of 0-55|
//         +--------+---------+---------+------------+-------------+-------------+----------------+----------+--------+
//   byte 64        n tokens, u16 where the vocabulary size is at most 65,536 and u32 above; the file ends with them
//
// The tokens of a document follow each other and end with </s> or the like; a document may go on in the next shard.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/file.h"

namespace nibble {

struct ShardHeader {
  std::uint64_t vocab_size = 0;
  std::uint64_t tokens = 0;
  std::uint64_t payload_checksum = 0;
  std::uint64_t tokenizer_hash = 0;
  int token_bytes() const { return vocab_size <= 65536 ? 2 : 4; }
};

/// Streams one shard to disk; all or nothing (io/atomic_file.h).
class ShardWriter {
 public:
  /// vocab_size in [1, 2^31].
  ShardWriter(const std::filesystem::path& path, std::int64_t vocab_size, std::uint64_t tokenizer_hash);
  /// InternalError for a token outside [0, vocab_size).
  void append(std::span<const std::int32_t> tokens);
  std::int64_t tokens() const { return static_cast<std::int64_t>(header_.tokens); }
  /// Completes the header and the file.
  void commit();

 private:
  AtomicFile file_;
  ShardHeader header_;
  Xxh3Stream checksum_;
};

/// A shard in memory-mapped form.
class Shard {
 public:
  /// UserError when the file is not a shard, its header is damaged, or it is longer or shorter than its header says.
  explicit Shard(const std::filesystem::path& path);

  const ShardHeader& header() const { return header_; }
  const std::filesystem::path& path() const { return file_.path(); }
  std::int64_t tokens() const { return static_cast<std::int64_t>(header_.tokens); }
  /// Copies tokens [begin, begin + out.size()). UserError for a token that is not in the vocabulary.
  void copy(std::int64_t begin, std::span<std::int32_t> out) const;
  /// Reads the whole payload: UserError when it does not match its checksum.
  void verify() const;

 private:
  std::span<const std::byte> payload() const;
  MappedFile file_;
  ShardHeader header_;
};

}  // namespace nibble
