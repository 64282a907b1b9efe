// Files: reading whole, in pieces, or as a memory map. Every failure of the operating system is a UserError that
// names the path and the reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

std::string read_file(const std::filesystem::path& path);

/// Like mkdir -p.
void make_directories(const std::filesystem::path& path);

/// Makes the names in a directory durable: after a rename, a crash of the machine shows the old file or the new one.
void fsync_directory(const std::filesystem::path& path);

/// Throws the UserError "cannot ACTION 'PATH': REASON" for errno value `error`.
[[noreturn]] void file_error(std::string_view action, const std::filesystem::path& path, int error);

/// Owns a file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() { close(); }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  int get() const { return fd_; }
  int release();
  void close();

 private:
  int fd_ = -1;
};

/// A file, pipe or standard input, read from its beginning to its end.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path);
  static InputFile standard_input();

  /// Fills `buffer` from the file; fewer bytes than asked only at the end of the file.
  std::size_t read(std::span<std::byte> buffer);
  /// Bytes of a regular file; 0 for a pipe.
  std::uint64_t size() const { return size_; }
  /// For messages; standard input is "<stdin>".
  const std::filesystem::path& path() const { return path_; }

 private:
  InputFile(FileDescriptor fd, std::filesystem::path path);
  FileDescriptor fd_;
  std::filesystem::path path_;
  std::uint64_t size_ = 0;
};

/// A whole file as read-only memory. The file must not shrink while it is mapped.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace nibble
