// Inputs for readers that take a path. Nothing reaches a disk where the machine has /dev/shm.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

namespace nibble::fuzz {

/// Ends a part of an input that holds several: a line of its own, so that such inputs stay readable.
inline constexpr std::string_view kCut = "\n--8<--\n";

/// What is before the first kCut and what is behind it; all and nothing where there is none.
std::pair<std::string_view, std::string_view> cut(std::string_view bytes);

/// A file without a name. One object serves all inputs of a process.
class MemoryFile {
 public:
  MemoryFile();
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  /// Replaces the contents; the path leads to them until the next call.
  const std::filesystem::path& hold(std::string_view bytes);

 private:
  int fd_;
  std::filesystem::path path_;
};

/// A folder that is removed when the program ends.
class InputFolder {
 public:
  InputFolder();
  ~InputFolder();
  InputFolder(const InputFolder&) = delete;
  InputFolder& operator=(const InputFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, std::string_view bytes) const;

 private:
  std::filesystem::path path_;
};

}  // namespace nibble::fuzz
