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
//
// A shard with a loss mask, for fine-tuning on completions, has the magic NIBTOK02, the number of counted tokens in the
// place of the 0 at byte 48, and behind the tokens the mask: ceil(n / 8) bytes, in which bit i mod 8 (counted from the
// lowest) of byte i / 8 is 1 where token i counts in the loss as a target. Bits behind the last token are 0. The
// payload's checksum covers tokens and mask.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/file.h"

namespace nibble {

struct ShardHeader {
  std::uint64_t vocab_size = 0;
  std::uint64_t tokens = 0;
  std::uint64_t payload_checksum = 0;
  std::uint64_t tokenizer_hash = 0;
  bool masked = false;        ///< has a loss mask
  std::uint64_t counted = 0;  ///< tokens that count in the loss; where there is no mask, all
  int token_bytes() const { return vocab_size <= 65536 ? 2 : 4; }
};

/// Streams one shard to disk; all or nothing (io/atomic_file.h).
class ShardWriter {
 public:
  /// vocab_size in [1, 2^31]. A shard with a mask keeps n / 8 bytes of memory until it is complete.
  ShardWriter(const std::filesystem::path& path, std::int64_t vocab_size, std::uint64_t tokenizer_hash,
              bool masked = false);
  /// InternalError for a token outside [0, vocab_size), and for a shard with a mask.
  void append(std::span<const std::int32_t> tokens);
  /// The same for a shard with a mask: token i counts in the loss where counted[i] is not 0.
  void append(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> counted);
  std::int64_t tokens() const { return static_cast<std::int64_t>(header_.tokens); }
  /// Completes the header and the file.
  void commit();

 private:
  void write_tokens(std::span<const std::int32_t> tokens);
  AtomicFile file_;
  ShardHeader header_;
  Xxh3Stream checksum_;
  std::vector<std::byte> mask_;
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
  /// Whether tokens [begin, begin + out.size()) count in the loss: 1 or 0.
  void copy_counted(std::int64_t begin, std::span<std::uint8_t> out) const;
  /// Reads the whole payload: UserError when it does not match its checksum, or the mask not the header.
  void verify() const;

 private:
  std::span<const std::byte> payload() const;
  std::span<const std::byte> mask() const;  // empty where there is none
  MappedFile file_;
  ShardHeader header_;
};

}  // namespace nibble
