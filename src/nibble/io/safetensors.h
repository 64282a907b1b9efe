// safetensors, the tensor file of the Hugging Face tools (github.com/huggingface/safetensors).
//
//   +-----------------+----------------------------------+------------------------------+
//   | u64 LE: n       | n bytes of JSON, '{' first       | tensor bytes                 |
//   | at most 10^8    | padded with spaces               | contiguous, no holes         |
//   +-----------------+----------------------------------+------------------------------+
//   {"__metadata__": {"key": "text"},
//    "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}}     offsets from the first tensor byte
//
// Elements are little-endian and row-major. The reader keeps the rules of the Rust library and refuses duplicate
// names; every violation is a UserError that names the file and the rule.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "nibble/io/file.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// One tensor of a file.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;                ///< as written: BOOL U8 I8 F8_E5M2 F8_E4M3 I16 U16 F16 BF16 I32 U32 F32 I64 U64 F64
  std::vector<std::int64_t> shape;  ///< empty for a scalar
  std::span<const std::byte> bytes;
};

using SafetensorsMetadata = std::map<std::string, std::string>;

/// Writes the entries, ordered by falling element size and then by name, so that each tensor is aligned to its
/// element; all or nothing (io/atomic_file.h). Returns XXH3-64 of the file. Throws InternalError for a dtype that is
/// not listed above, a size that does not fit the shape, or a name that is double or "__metadata__".
std::uint64_t write_safetensors(const std::filesystem::path& path, std::vector<SafetensorsEntry> entries,
                                const SafetensorsMetadata& metadata = {});

/// An entry that refers to a tensor's memory (CPU); the tensor must live until it is written.
SafetensorsEntry safetensors_entry(std::string name, const Tensor& tensor);

/// The values of F32, BF16 or F16 elements as F32, exactly (a signalling NaN becomes a quiet one), from any address;
/// `to` is on the CPU. False, and nothing done, for another dtype.
bool decode_floats(const std::string& dtype, const std::byte* bytes, const Tensor& to);

/// A file, validated as a whole when it is opened and memory-mapped while the object lives.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const SafetensorsMetadata& metadata() const { return metadata_; }
  const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }
  bool contains(const std::string& name) const { return entries_.contains(name); }
  /// UserError, with the nearest name, when the file has no such tensor.
  const SafetensorsEntry& entry(const std::string& name) const;

  /// The mapped memory as a read-only tensor; a scalar has shape [1]. UserError for a dtype that Tensor does not have,
  /// more than Tensor::kMaxDims dimensions, or memory that the writer of the file did not align to the element.
  Tensor view(const std::string& name) const;
  /// Copies the tensor's bytes into `to`, on any device. UserError when dtype or shape differ.
  void read(const std::string& name, const Tensor& to) const;
  /// decode_floats of the tensor; UserError for another dtype or another shape than that of `to`.
  void read_floats(const std::string& name, const Tensor& to) const;

 private:
  MappedFile file_;
  SafetensorsMetadata metadata_;
  std::map<std::string, SafetensorsEntry> entries_;
};

}  // namespace nibble
