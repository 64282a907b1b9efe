#include "nibble/io/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "nibble/tensor/error.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

constexpr const char* kLock = ".lock";           // behind the name of a temporary directory
constexpr const char* kOld = "-old";             // likewise, for what it replaces
constexpr std::size_t kBufferBytes = 256 << 10;  // one system call for many small pieces

fs::path parent_directory(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

/// DIR/ and DIR name the same destination.
fs::path without_trailing_slash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

std::string temporary_suffix() { return fmt::format(".tmp-{}", ::getpid()); }

void write_all(int fd, std::span<const std::byte> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) file_error("write", path, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void fsync_file(const fs::path& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0 || ::fsync(fd.get()) != 0) file_error("sync", path, errno);
}

/// Files first, then the directories that name them.
void fsync_tree(const fs::path& root) {
  std::vector<fs::path> directories = {root};
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    if (entry.is_directory()) directories.push_back(entry.path());
    if (entry.is_regular_file()) fsync_file(entry.path());
  }
  for (auto it = directories.rbegin(); it != directories.rend(); ++it) fsync_directory(*it);
}

/// Exchanges two directories; false where the file system has no such operation.
bool exchange(const fs::path& a, const fs::path& b) {
#ifdef RENAME_EXCHANGE
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
#else
  static_cast<void>(a);
  static_cast<void>(b);
  return false;
#endif
}

}  // namespace

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)), buffer_(new std::byte[kBufferBytes]) {
  // A killed process with the same number may have left its file: try the next name.
  for (int attempt = 0; fd_.get() < 0; ++attempt) {
    temporary_ = path_;
    temporary_ += fmt::format("{}-{}", temporary_suffix(), attempt);
    fd_ = FileDescriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (fd_.get() < 0 && (errno != EEXIST || attempt == 1000)) file_error("create", temporary_, errno);
  }
}

AtomicFile::~AtomicFile() {
  if (fd_.get() < 0) return;
  fd_.close();
  ::unlink(temporary_.c_str());
}

void AtomicFile::flush() {
  write_all(fd_.get(), {buffer_.get(), buffered_}, temporary_);
  flushed_ += buffered_;
  buffered_ = 0;
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  require(fd_.get() >= 0, "write to '{}' after commit", path_.string());
  if (bytes.empty()) return;
  if (buffered_ + bytes.size() > kBufferBytes) flush();
  if (bytes.size() > kBufferBytes) {
    write_all(fd_.get(), bytes, temporary_);
    flushed_ += bytes.size();
    return;
  }
  std::memcpy(buffer_.get() + buffered_, bytes.data(), bytes.size());
  buffered_ += bytes.size();
}

void AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  require(fd_.get() >= 0, "write to '{}' after commit", path_.string());
  require(offset <= size() && bytes.size() <= size() - offset, "write_at beyond the {} bytes of '{}'", size(),
          path_.string());
  flush();
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) file_error("write", temporary_, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void AtomicFile::commit() {
  require(fd_.get() >= 0, "second commit of '{}'", path_.string());
  flush();
  if (::fsync(fd_.get()) != 0) file_error("sync", temporary_, errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) file_error("write", path_, errno);
  fd_.close();
  fsync_directory(parent_directory(path_));
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

AtomicDirectory::AtomicDirectory(const fs::path& destination, Existing existing)
    : destination_(without_trailing_slash(destination)), existing_(existing) {
  std::error_code error;
  if (fs::exists(destination_, error) && !fs::is_directory(destination_, error)) {
    user_error("'{}' is a file; choose another name for the directory", destination_.string());
  }
  if (existing == Existing::Refuse && fs::exists(destination_, error) && !fs::is_empty(destination_, error)) {
    user_error("'{}' exists and is not empty; remove it or choose another name", destination_.string());
  }
  make_directories(parent_directory(destination_));
  // Another host's process of the same number may write here.
  for (int attempt = 0; !lock_; ++attempt) {
    temporary_ = destination_;
    temporary_ += temporary_suffix() + (attempt == 0 ? "" : fmt::format("-{}", attempt));
    if (attempt == 1000) file_error("lock", temporary_, EEXIST);
    lock_ = FileLock::make(temporary_.string() + kLock);
  }
  fs::remove_all(temporary_, error);
  if (error) file_error("remove", temporary_, error.value());
  make_directories(temporary_);
}

AtomicDirectory::~AtomicDirectory() {
  if (committed_) return;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  require(!committed_, "second commit of '{}'", destination_.string());
  fsync_tree(temporary_);
  if (::rename(temporary_.c_str(), destination_.c_str()) == 0) {
    committed_ = true;
  } else {
    const int reason = errno;
    const bool occupied = reason == ENOTEMPTY || reason == EEXIST;
    if (!occupied || existing_ == Existing::Refuse) file_error("create the directory", destination_, reason);
    if (!exchange(temporary_, destination_)) {
      fs::path old = temporary_;
      old += kOld;
      if (::rename(destination_.c_str(), old.c_str()) != 0) file_error("replace", destination_, errno);
      if (::rename(temporary_.c_str(), destination_.c_str()) != 0) file_error("replace", destination_, errno);
      temporary_ = old;
    }
    committed_ = true;
    fsync_directory(parent_directory(destination_));
    std::error_code ignored;  // the old directory's remains are rubbish, not a failure
    fs::remove_all(temporary_, ignored);
  }
  fsync_directory(parent_directory(destination_));
  lock_.reset();
}

void remove_leftovers(const fs::path& directory) {
  std::error_code error;
  std::set<std::string> found;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.find(".tmp-") == std::string::npos) continue;
    if (entry.is_directory(error)) found.insert(name);
    if (name.ends_with(kLock)) found.insert(name.substr(0, name.size() - std::strlen(kLock)));
  }
  for (const std::string& name : found) {
    const std::string owner = name.ends_with(kOld) ? name.substr(0, name.size() - std::strlen(kOld)) : name;
    const std::optional<FileLock> lock = FileLock::make(directory / (owner + kLock));
    if (lock && lock->locked()) fs::remove_all(directory / name, error);
  }
}

}  // namespace nibble
