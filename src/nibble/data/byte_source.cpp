#include "nibble/data/byte_source.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "nibble/io/file.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr std::size_t kInputBytes = 256 << 10;

/// The file's bytes as they are, with a look at what comes next.
class RawInput {
 public:
  explicit RawInput(InputFile file) : file_(std::move(file)), buffer_(kInputBytes) {}

  /// Unread bytes; empty only at the end of the file. At least `wanted` of them unless the file ends first.
  std::span<const std::byte> peek(std::size_t wanted = 1) {
    if (end_ - begin_ < wanted) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
      end_ += file_.read(std::span(buffer_).subspan(end_));
    }
    return std::span<const std::byte>(buffer_).subspan(begin_, end_ - begin_);
  }
  void consume(std::size_t bytes) {
    begin_ += bytes;
    consumed_ += bytes;
  }
  std::uint64_t consumed() const { return consumed_; }
  std::string name() const { return file_.path().string(); }

 private:
  InputFile file_;
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::uint64_t consumed_ = 0;
};

class PlainSource final : public ByteSource {
 public:
  explicit PlainSource(RawInput input) : input_(std::move(input)) {}

  std::size_t read(std::span<std::byte> buffer) override {
    std::size_t filled = 0;
    while (filled < buffer.size()) {
      const auto bytes = input_.peek();
      if (bytes.empty()) break;
      const std::size_t n = std::min(bytes.size(), buffer.size() - filled);
      std::memcpy(buffer.data() + filled, bytes.data(), n);
      input_.consume(n);
      filled += n;
    }
    return filled;
  }
  std::uint64_t file_bytes_read() const override { return input_.consumed(); }

 private:
  RawInput input_;
};

[[noreturn]] void corrupt(const RawInput& input, const char* format, const char* reason) {
  user_error("'{}' is corrupt: {} ({}, near byte {} of the file)", input.name(), reason, format, input.consumed());
}

[[noreturn]] void truncated(const RawInput& input, const char* format) {
  user_error("'{}' is truncated: its {} data ends after {} bytes in the middle of a stream; copy the file again",
             input.name(), format, input.consumed());
}

class GzipSource final : public ByteSource {
 public:
  explicit GzipSource(RawInput input) : input_(std::move(input)) {
    constexpr int kGzipOnly = 16;
    require(inflateInit2(&stream_, MAX_WBITS + kGzipOnly) == Z_OK, "inflateInit2 failed");
  }
  ~GzipSource() override { inflateEnd(&stream_); }
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;

  std::size_t read(std::span<std::byte> buffer) override {
    std::size_t filled = 0;
    while (filled < buffer.size()) {
      const auto bytes = input_.peek();
      if (bytes.empty()) {
        if (in_member_) truncated(input_, "gzip");
        break;
      }
      const std::size_t room = std::min<std::size_t>(buffer.size() - filled, 1u << 30);
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data()));
      stream_.avail_in = static_cast<uInt>(bytes.size());
      stream_.next_out = reinterpret_cast<Bytef*>(buffer.data() + filled);
      stream_.avail_out = static_cast<uInt>(room);
      in_member_ = true;
      const int status = inflate(&stream_, Z_NO_FLUSH);
      input_.consume(bytes.size() - stream_.avail_in);
      filled += room - stream_.avail_out;
      if (status == Z_STREAM_END) {
        in_member_ = false;
        inflateReset(&stream_);
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        corrupt(input_, "gzip", stream_.msg == nullptr ? zError(status) : stream_.msg);
      }
    }
    return filled;
  }
  std::uint64_t file_bytes_read() const override { return input_.consumed(); }

 private:
  RawInput input_;
  z_stream stream_{};
  bool in_member_ = false;
};

class ZstdSource final : public ByteSource {
 public:
  explicit ZstdSource(RawInput input) : input_(std::move(input)), context_(ZSTD_createDCtx()) {
    // 2^27 is what the zstd tool accepts unasked; a frame that wants more would let a file choose our memory.
    require(context_ && !ZSTD_isError(ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, 27)),
            "cannot set up the Zstandard decoder");
  }

  std::size_t read(std::span<std::byte> buffer) override {
    ZSTD_outBuffer out{buffer.data(), buffer.size(), 0};
    while (out.pos < out.size) {
      const auto bytes = input_.peek();
      // With no input left the decoder may still hold output of the last block.
      ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
      const std::size_t before = out.pos;
      if (bytes.empty() && !in_frame_) break;
      const std::size_t status = ZSTD_decompressStream(context_.get(), &out, &in);
      input_.consume(in.pos);
      if (ZSTD_isError(status)) corrupt(input_, "Zstandard", ZSTD_getErrorName(status));
      in_frame_ = status != 0;
      if (bytes.empty() && in_frame_ && out.pos == before) truncated(input_, "Zstandard");
    }
    return out.pos;
  }
  std::uint64_t file_bytes_read() const override { return input_.consumed(); }

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  RawInput input_;
  std::unique_ptr<ZSTD_DCtx, Free> context_;
  bool in_frame_ = false;
};

bool is_gzip(std::span<const std::byte> head) {
  return head.size() >= 2 && head[0] == std::byte{0x1F} && head[1] == std::byte{0x8B};
}

bool is_zstd(std::span<const std::byte> head) {
  if (head.size() < 4) return false;
  std::array<std::uint8_t, 4> b{};
  std::memcpy(b.data(), head.data(), 4);
  const bool frame = b[0] == 0x28 && b[1] == 0xB5 && b[2] == 0x2F && b[3] == 0xFD;
  const bool skippable = (b[0] & 0xF0) == 0x50 && b[1] == 0x2A && b[2] == 0x4D && b[3] == 0x18;
  return frame || skippable;
}

}  // namespace

std::unique_ptr<ByteSource> open_byte_source(const std::filesystem::path& path) {
  RawInput input(path == "-" ? InputFile::standard_input() : InputFile(path));
  const auto head = input.peek(4);
  const std::string extension = path.extension().string();
  if (extension == ".gz" && !is_gzip(head)) user_error("'{}' is not gzip data, in spite of its name", input.name());
  if (extension == ".zst" && !is_zstd(head)) {
    user_error("'{}' is not Zstandard data, in spite of its name", input.name());
  }
  if (is_gzip(head)) return std::make_unique<GzipSource>(std::move(input));
  if (is_zstd(head)) return std::make_unique<ZstdSource>(std::move(input));
  return std::make_unique<PlainSource>(std::move(input));
}

}  // namespace nibble
