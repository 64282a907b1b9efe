#include "nibble/io/safetensors_folder.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "nibble/io/format.h"
#include "nibble/io/format_rules.h"
#include "nibble/io/json.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

/// A file beside the index, by a name that leads nowhere else.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

/// weight_map of an index: tensor -> file.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const nlohmann::json index = read_json(path);
  const FormatRules rules(path, "index of safetensors files");
  rules.check(index.is_object() && index.contains("weight_map"), "it has no weight_map");
  const nlohmann::json& map = index["weight_map"];
  rules.check(map.is_object() && !map.empty(), "weight_map is not an object that names a tensor");
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map.items()) {
    rules.check(file.is_string(), "the file of tensor '{}' is not a string", tensor);
    const auto name = file.get<std::string>();
    rules.check(is_plain_name(name), "the file of tensor '{}' is {}, not a name beside the index", tensor,
                nlohmann::json(name).dump());
    files[tensor] = name;
  }
  return files;
}

}  // namespace

SafetensorsFolder::SafetensorsFolder(fs::path folder) : folder_(std::move(folder)) {
  const fs::path whole = folder_ / kWeightsFile;
  const fs::path index = folder_ / kWeightsIndexFile;
  if (fs::exists(whole) || !fs::exists(index)) {
    if (!fs::exists(whole) && SafetensorsParts::exist(folder_, kWeightsStem)) {
      parts_.emplace(folder_, kWeightsStem);
      return;
    }
    if (!fs::exists(whole)) {
      user_error("'{}' holds no weights: neither {} nor {}", folder_.string(), kWeightsFile, kWeightsIndexFile);
    }
    files_.emplace_back(whole);
    for (const auto& [name, entry] : files_[0].entries()) file_of_[name] = 0;
    return;
  }
  const std::map<std::string, std::string> listed = read_index(index);
  std::map<std::string, std::size_t> opened;
  for (const auto& [tensor, name] : listed) {
    const auto [at, is_new] = opened.try_emplace(name, files_.size());
    if (is_new) files_.emplace_back(folder_ / name);
    if (!files_[at->second].contains(tensor)) {
      user_error("'{}' says that tensor '{}' is in {}, which has no such tensor", index.string(), tensor, name);
    }
    file_of_[tensor] = at->second;
  }
  for (const auto& [name, file] : opened) {
    for (const auto& [tensor, entry] : files_[file].entries()) {
      const auto at = listed.find(tensor);
      if (at == listed.end()) {
        user_error("'{}' leaves out tensor '{}' of {}", index.string(), tensor, name);
      }
      if (at->second != name) {
        user_error("'{}': tensor '{}' is both in {} and in {}", index.string(), tensor, at->second, name);
      }
    }
  }
}

std::vector<std::string> SafetensorsFolder::names() const { return parts_ ? parts_->names() : names_of(file_of_); }

bool SafetensorsFolder::contains(const std::string& name) const {
  return parts_ ? parts_->contains(name) : file_of_.contains(name);
}

std::vector<std::int64_t> SafetensorsFolder::shape(const std::string& name) const {
  return parts_ ? parts_->shape(name) : entry(name).shape;
}

void SafetensorsFolder::read_floats(const std::string& name, const Tensor& to) const {
  parts_ ? parts_->read_floats(name, to) : file(name).read_floats(name, to);
}

std::vector<std::span<const std::byte>> SafetensorsFolder::pieces(const std::string& name) const {
  if (parts_) return parts_->pieces(name);
  return {entry(name).bytes};
}

std::span<const std::byte> SafetensorsFolder::bytes_as(DType dtype, const std::string& name) const {
  const std::string& stored = parts_ ? parts_->dtype(name) : entry(name).dtype;
  const std::vector<std::span<const std::byte>> found = pieces(name);
  return stored == dtype_name(dtype) && found.size() == 1 ? found[0] : std::span<const std::byte>();
}

const SafetensorsFile& SafetensorsFolder::file(const std::string& name) const {
  require(!parts_, "the rows of '{}' may lie in several files", name);
  const auto at = file_of_.find(name);
  if (at == file_of_.end()) no_such_tensor(folder_, name, names());
  return files_[at->second];
}

void write_safetensors_folder(const fs::path& folder, const std::vector<TensorToWrite>& tensors,
                              std::uint64_t most_bytes,
                              const std::function<std::vector<SafetensorsEntry>(std::size_t, std::size_t)>& load,
                              const SafetensorsMetadata& metadata) {
  std::vector<std::size_t> ends;  // of the files: one behind their last tensor
  std::uint64_t in_file = 0;
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (in_file > 0 && in_file + tensors[i].bytes > most_bytes) {
      ends.push_back(i);
      in_file = 0;
    }
    in_file += tensors[i].bytes;
    total += tensors[i].bytes;
  }
  ends.push_back(tensors.size());
  if (ends.size() == 1) {
    write_safetensors(folder / kWeightsFile, load(0, tensors.size()), metadata);
    return;
  }
  nlohmann::json map = nlohmann::json::object();
  std::size_t begin = 0;
  for (std::size_t file = 0; file < ends.size(); ++file) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", file + 1, ends.size());
    write_safetensors(folder / name, load(begin, ends[file]), metadata);
    for (; begin < ends[file]; ++begin) map[tensors[begin].name] = name;
  }
  write_json_atomic(folder / kWeightsIndexFile, {{"metadata", {{"total_size", total}}}, {"weight_map", map}});
}

}  // namespace nibble
