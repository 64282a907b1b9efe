// GGUF, the model file of llama.cpp (github.com/ggml-org/ggml, docs/gguf.md), versions 2 and 3, little-endian.
//
//   +---------------------------------------------------------------+
//   | "GGUF" | u32 version | u64 tensors | u64 metadata values       |
//   +---------------------------------------------------------------+
//   | metadata, each:  text key | u32 type | value                   |   text  = u64 bytes | bytes
//   |                                                               |   array = u32 element type | u64 n | n values
//   +---------------------------------------------------------------+
//   | tensors, each:   text name | u32 dimensions (at most 4)        |
//   |                  | u64 sizes, the innermost first              |
//   |                  | u32 ggml type | u64 offset                  |   from the first byte of the data, aligned
//   +---------------------------------------------------------------+
//   | padding to the alignment: general.alignment, or 32             |
//   +---------------------------------------------------------------+
//   | data: each tensor row-major, padding between two               |
//   +---------------------------------------------------------------+
//
// The reader checks all of this when it opens a file; every violation is a UserError that names the file and the rule.
// Beyond the format: names of tensors have at most 64 bytes, keys at most 65535, and no key or name occurs twice.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "nibble/io/file.h"
#include "nibble/io/ggml_type.h"

namespace nibble {

/// An array; the index of an alternative is the number of its elements' type in a file. Arrays of arrays (9) are not
/// supported, as they are not by llama.cpp.
using GgufArray = std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
                               std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
                               std::vector<float>, std::vector<bool>, std::vector<std::string>, std::monostate,
                               std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>>;

/// A metadata value; the index of an alternative is the number of its type in a file.
using GgufValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t,
                               float, bool, std::string, GgufArray, std::uint64_t, std::int64_t, double>;

/// Keys and values in the order of the file.
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

struct GgufTensorInfo {
  std::string name;
  GgmlType type = GgmlType::F32;
  std::vector<std::int64_t> shape;  ///< the innermost last, the reverse of the file's; a row is whole blocks
};

struct GgufTensor : GgufTensorInfo {
  std::span<const std::byte> bytes;
};

/// Bytes of a tensor's data. InternalError where its rows are not whole blocks or the size overflows 64 bits.
std::uint64_t gguf_bytes(const GgufTensorInfo& tensor);

/// Writes the file, all or nothing (io/atomic_file.h), tensors in the order given. `load` returns the bytes of a tensor
/// by its position; they are used before it is called again. A value "general.alignment" (u32, a power of two) aligns
/// the data. Returns XXH3-64 of the file. InternalError for what the reader would refuse. `version` is 2 or 3, which
/// differ in nothing else for little-endian files.
std::uint64_t write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                         const std::vector<GgufTensorInfo>& tensors,
                         const std::function<std::span<const std::byte>(std::size_t)>& load, std::uint32_t version = 3);

/// A file, validated as a whole when it is opened and memory-mapped while the object lives.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  std::uint32_t version() const { return version_; }
  const GgufMetadata& metadata() const { return metadata_; }
  /// Tensors by name.
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }
  /// UserError, with the nearest name, when the file has no such tensor.
  const GgufTensor& tensor(const std::string& name) const;

  /// A metadata value, or nullptr.
  const GgufValue* find(std::string_view key) const;
  /// Typed values; nothing where the file has no such key, UserError where its value is of another kind. Integers may
  /// have any width and sign, numbers any type but bool.
  std::optional<std::string> text(std::string_view key) const;
  std::optional<std::int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> flag(std::string_view key) const;
  const std::vector<std::string>* texts(std::string_view key) const;
  std::optional<std::vector<std::int64_t>> integers(std::string_view key) const;
  std::optional<std::vector<double>> numbers(std::string_view key) const;

 private:
  MappedFile file_;
  std::uint32_t version_ = 0;
  GgufMetadata metadata_;
  std::map<std::string, GgufTensor> tensors_;
};

/// Whether the file begins as GGUF does; false where it cannot be read.
bool is_gguf(const std::filesystem::path& path);

}  // namespace nibble
