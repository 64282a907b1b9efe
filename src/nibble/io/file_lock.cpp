#include "nibble/io/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace nibble {

namespace fs = std::filesystem;

namespace {

/// Whether `path` still names the open file: who looked for leftovers may have removed it.
bool names(const fs::path& path, int fd) {
  struct stat by_name {};
  struct stat opened {};
  return ::stat(path.c_str(), &by_name) == 0 && ::fstat(fd, &opened) == 0 && by_name.st_ino == opened.st_ino &&
         by_name.st_dev == opened.st_dev;
}

}  // namespace

std::optional<FileLock> FileLock::make(const fs::path& path) {
  FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (fd.get() < 0) file_error("create", path, errno);
  const bool locked = ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0;
  if (!locked && errno == EWOULDBLOCK) return std::nullopt;
  if (!names(path, fd.get())) return std::nullopt;
  return FileLock(std::move(fd), path, locked);
}

FileLock::~FileLock() {
  if (fd_.get() >= 0) ::unlink(path_.c_str());
}

}  // namespace nibble
