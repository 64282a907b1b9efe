// A lock that ends with the process that holds it, however that ends: how a file or folder in the making is told from
// what a killed process left (flock, which Linux passes on to NFS servers).
#pragma once

#include <filesystem>
#include <optional>
#include <utility>

#include "nibble/io/file.h"

namespace nibble {

class FileLock {
 public:
  /// Makes the file and locks it; nothing where another process, or another object of this one, holds it. Where the
  /// file system knows no locks the file alone is made.
  static std::optional<FileLock> make(const std::filesystem::path& path);
  /// False where the file system knows no locks.
  bool locked() const { return locked_; }

  FileLock(FileLock&&) noexcept = default;
  FileLock& operator=(FileLock&&) noexcept = default;
  /// Removes the file and gives the lock back.
  ~FileLock();

 private:
  FileLock(FileDescriptor fd, std::filesystem::path path, bool locked)
      : fd_(std::move(fd)), path_(std::move(path)), locked_(locked) {}
  FileDescriptor fd_;
  std::filesystem::path path_;
  bool locked_;
};

}  // namespace nibble
