// Writing that is all or nothing. A file or directory is built beside its destination under the name
// DESTINATION.tmp-PID[-N], synced to the disk, and renamed: whoever opens the destination, at any time and after any
// crash, sees the complete old content or the complete new one. Every failure of the operating system is a UserError
// that names the path and the reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "nibble/io/file.h"
#include "nibble/io/file_lock.h"

namespace nibble {

/// One file, written piece by piece. Without commit() the destination stays as it was.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Replaces bytes that were written before (a header whose counts are known at the end).
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  std::uint64_t size() const { return flushed_ + buffered_; }
  /// Sync, rename, sync of the directory. Nothing can be written afterwards.
  void commit();

 private:
  void flush();

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  FileDescriptor fd_;
  std::unique_ptr<std::byte[]> buffer_;
  std::size_t buffered_ = 0;
  std::uint64_t flushed_ = 0;
};

void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);

/// What to do with a destination that is there already and not an empty directory.
enum class Existing : std::uint8_t {
  Refuse,   ///< UserError, at once
  Replace,  ///< exchanged for the new one by commit(), atomically where the file system can
};

/// One directory. Write the files below path(), then commit(). Without commit() everything written is removed.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(const std::filesystem::path& destination, Existing existing = Existing::Refuse);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// Where to write until commit().
  const std::filesystem::path& path() const { return temporary_; }
  /// Syncs every file and directory below path(), renames it to the destination and syncs the parent.
  void commit();

 private:
  std::filesystem::path destination_;
  std::filesystem::path temporary_;
  std::optional<FileLock> lock_;
  Existing existing_;
  bool committed_ = false;
};

/// Removes what processes that are dead left of directories that they built in `directory`: every NAME.tmp-* whose lock
/// nobody holds. What cannot be removed stays for the next time.
void remove_leftovers(const std::filesystem::path& directory);

}  // namespace nibble
