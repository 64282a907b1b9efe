#include "nibble/io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "nibble/tensor/error.h"

namespace nibble {

namespace fs = std::filesystem;

void file_error(std::string_view action, const fs::path& path, int error) {
  user_error("cannot {} '{}': {}", action, path.string(), std::generic_category().message(error));
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = other.release();
  }
  return *this;
}

int FileDescriptor::release() { return std::exchange(fd_, -1); }

void FileDescriptor::close() {
  if (fd_ >= 0) ::close(release());
}

InputFile::InputFile(FileDescriptor fd, fs::path path) : fd_(std::move(fd)), path_(std::move(path)) {
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) file_error("read", path_, errno);
  if (S_ISDIR(status.st_mode)) file_error("read", path_, EISDIR);
  if (S_ISREG(status.st_mode)) size_ = static_cast<std::uint64_t>(status.st_size);
}

static FileDescriptor open_to_read(const fs::path& path) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) file_error("open", path, errno);
  return fd;
}

InputFile::InputFile(const fs::path& path) : InputFile(open_to_read(path), path) {}

InputFile InputFile::standard_input() {
  FileDescriptor fd(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0));
  if (fd.get() < 0) file_error("read", "<stdin>", errno);
  return InputFile(std::move(fd), "<stdin>");
}

std::size_t InputFile::read(std::span<std::byte> buffer) {
  std::size_t filled = 0;
  while (filled < buffer.size()) {
    const ssize_t n = ::read(fd_.get(), buffer.data() + filled, buffer.size() - filled);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) file_error("read", path_, errno);
    if (n == 0) break;
    filled += static_cast<std::size_t>(n);
  }
  return filled;
}

std::string read_file(const fs::path& path) {
  InputFile file(path);
  std::string text;
  // The size is a hint only: files under /proc say 0, and a file may grow while it is read.
  std::size_t filled = 0;
  std::size_t want = static_cast<std::size_t>(file.size()) + 1;
  for (;;) {
    text.resize(filled + want);
    const std::size_t n = file.read(std::as_writable_bytes(std::span(text)).subspan(filled));
    filled += n;
    if (n < want) break;
    want = std::max<std::size_t>(filled, 4096);
  }
  text.resize(filled);
  return text;
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) file_error("create the directory", path, error.value());
}

void fsync_directory(const fs::path& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) file_error("open the directory", path, errno);
  // Some network file systems cannot sync a directory and say EINVAL: there is nothing more to do on them.
  if (::fsync(fd.get()) != 0 && errno != EINVAL) file_error("sync the directory", path, errno);
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const FileDescriptor fd = open_to_read(path);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) file_error("read", path, errno);
  if (S_ISDIR(status.st_mode)) file_error("read", path, EISDIR);
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;  // mmap refuses an empty range
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (p == MAP_FAILED) file_error("map", path, errno);
  data_ = static_cast<const std::byte*>(p);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, std::size_t{0})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace nibble
