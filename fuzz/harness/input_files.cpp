#include "fuzz/harness/input_files.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "fuzz/harness/target.h"

namespace nibble::fuzz {

namespace fs = std::filesystem;

namespace {

void write_all(int fd, std::string_view bytes) {
  check(fd >= 0, "an input's file can be opened");
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    check(n > 0, "an input's file can be written");
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

}  // namespace

std::pair<std::string_view, std::string_view> cut(std::string_view bytes) {
  const std::size_t at = std::min(bytes.find(kCut), bytes.size());
  return {bytes.substr(0, at), bytes.substr(std::min(at + kCut.size(), bytes.size()))};
}

MemoryFile::MemoryFile() : fd_(::memfd_create("input", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(fd_)) {}

MemoryFile::~MemoryFile() { ::close(fd_); }

const fs::path& MemoryFile::hold(std::string_view bytes) {
  check(::ftruncate(fd_, 0) == 0 && ::lseek(fd_, 0, SEEK_SET) == 0, "an input's file can be emptied");
  write_all(fd_, bytes);
  return path_;
}

InputFolder::InputFolder() {
  const fs::path shared = "/dev/shm";
  const bool in_memory = ::access(shared.c_str(), W_OK) == 0;
  std::string name = ((in_memory ? shared : fs::temp_directory_path()) / "nibble-fuzz-XXXXXX").string();
  check(::mkdtemp(name.data()) != nullptr, "a folder for inputs can be made");
  path_ = name;
}

InputFolder::~InputFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void InputFolder::write(const std::string& name, std::string_view bytes) const {
  const int fd = ::open((path_ / name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  write_all(fd, bytes);
  ::close(fd);
}

}  // namespace nibble::fuzz
