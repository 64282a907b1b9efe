// The weights of a model in a folder, as the Hugging Face tools keep them: one safetensors file, or several with an
// index.
//
//   FOLDER/model.safetensors                 or
//   FOLDER/model.safetensors.index.json      {"metadata": {"total_size": bytes of all tensors},
//                                             "weight_map": {"tensor": "model-00001-of-00003.safetensors", ...}}
//   FOLDER/model-00001-of-00003.safetensors  ...
//
//   FOLDER/model.rank-00000-of-00004.safetensors  ...    parts that ranks wrote (io/safetensors_parts.h): nibble's own
//
// Where several are there, the first of these counts, as it does for the Hugging Face tools.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nibble/io/safetensors.h"
#include "nibble/io/safetensors_parts.h"
#include "nibble/io/tensor_source.h"

namespace nibble {

inline constexpr const char* kWeightsStem = "model";
inline constexpr const char* kWeightsFile = "model.safetensors";
inline constexpr const char* kWeightsIndexFile = "model.safetensors.index.json";

/// Every tensor of the folder, each file validated and memory-mapped. UserError, which names file and tensor, for an
/// index that leads out of the folder, a tensor that its file lacks, that two files hold or that the index leaves out.
/// total_size is not held against the files: writers count shared tensors in several ways.
class SafetensorsFolder final : public TensorSource {
 public:
  explicit SafetensorsFolder(std::filesystem::path folder);

  const std::filesystem::path& path() const override { return folder_; }
  std::vector<std::string> names() const override;
  bool contains(const std::string& name) const override;
  /// Of a tensor that one file holds.
  const SafetensorsEntry& entry(const std::string& name) const { return file(name).entry(name); }
  std::vector<std::int64_t> shape(const std::string& name) const override;
  void read_floats(const std::string& name, const Tensor& to) const override;
  /// Empty where rows of the tensor lie in several files, too.
  std::span<const std::byte> bytes_as(DType dtype, const std::string& name) const override;
  /// The tensor's bytes, in one piece or, where its rows lie in several files, one piece after the other.
  std::vector<std::span<const std::byte>> pieces(const std::string& name) const;

 private:
  const SafetensorsFile& file(const std::string& name) const;

  std::filesystem::path folder_;
  std::optional<SafetensorsParts> parts_;  // of ranks; otherwise
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t> file_of_;  // which of files_ holds a tensor
};

/// A tensor that is to be written; its bytes are asked for when its file is.
struct TensorToWrite {
  std::string name;
  std::uint64_t bytes = 0;
};

/// Writes the tensors into the folder, which exists: one file where they have at most `most_bytes` together, else
/// files of at most as much, in the order given, and their index; a tensor that is larger has a file of its own.
/// `load` returns the entries of some tensors, by their positions in `tensors`; they are used before it is called
/// again.
void write_safetensors_folder(
    const std::filesystem::path& folder, const std::vector<TensorToWrite>& tensors, std::uint64_t most_bytes,
    const std::function<std::vector<SafetensorsEntry>(std::size_t begin, std::size_t end)>& load,
    const SafetensorsMetadata& metadata = {});

}  // namespace nibble
