// Lines of a file or of standard input, plain or compressed (data/byte_source.h), as a stream: one line and one buffer
// are in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "nibble/data/byte_source.h"

namespace nibble {

class LineReader {
 public:
  /// `input` as open_byte_source takes it. A line above `most_bytes` is a UserError that ends with `advice`: of
  /// compressed data a few bytes can be gigabytes of text.
  LineReader(const std::string& input, std::uint64_t most_bytes, std::string advice);

  /// The next line without its end, LF or CRLF; false at the end of the file. A byte order mark at the beginning of the
  /// file is dropped. UserError, too, where compressed data is corrupt.
  bool next(std::string& line);

  /// UserError when what has reached `bytes`, a line or several, is above the limit.
  void check_length(std::uint64_t bytes) const;
  /// "FILE:LINE" of the line that was read last.
  std::string where() const;
  std::uint64_t file_bytes_read() const { return source_->file_bytes_read(); }

 private:
  std::string name_;
  std::unique_ptr<ByteSource> source_;
  std::uint64_t most_bytes_;
  std::string advice_;
  std::vector<char> block_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::uint64_t line_number_ = 0;
};

}  // namespace nibble
