// Bytes of a file or of standard input, decompressed on the way: gzip (RFC 1952, any number of members) and Zstandard
// (RFC 8878, any number of frames, windows up to 128 MiB). Memory is bounded by the decoder's window.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace nibble {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Fills `buffer` with decompressed bytes; fewer than asked only at the end. UserError that names the file when the
  /// compressed bytes are corrupt or end too early.
  virtual std::size_t read(std::span<std::byte> buffer) = 0;
  /// Bytes taken from the file so far, compressed ones if it is.
  virtual std::uint64_t file_bytes_read() const = 0;
};

/// Opens `path`, or standard input for "-". A name in .gz or .zst must hold that format; any other content is
/// recognised by its first bytes.
std::unique_ptr<ByteSource> open_byte_source(const std::filesystem::path& path);

}  // namespace nibble
