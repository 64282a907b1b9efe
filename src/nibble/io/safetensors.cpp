#include "nibble/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/format.h"
#include "nibble/io/format_rules.h"
#include "nibble/io/json.h"
#include "nibble/io/tensor_source.h"
#include "nibble/numerics/fp16.h"
#include "nibble/tensor/device.h"
#include "nibble/tensor/parallel.h"

namespace nibble {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensor bytes are written as they lie in memory");

namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the Rust library's limit
constexpr std::size_t kLengthBytes = 8;
constexpr const char* kMetadataKey = "__metadata__";

struct DTypeInfo {
  const char* name;
  std::uint64_t size;
  std::optional<DType> dtype;  // what Tensor calls it
};
constexpr std::array<DTypeInfo, 15> kDTypes = {{{"BOOL", 1, {}},
                                                {"U8", 1, DType::U8},
                                                {"I8", 1, {}},
                                                {"F8_E5M2", 1, {}},
                                                {"F8_E4M3", 1, {}},
                                                {"I16", 2, {}},
                                                {"U16", 2, {}},
                                                {"F16", 2, DType::F16},
                                                {"BF16", 2, DType::BF16},
                                                {"I32", 4, DType::I32},
                                                {"U32", 4, {}},
                                                {"F32", 4, DType::F32},
                                                {"I64", 8, {}},
                                                {"U64", 8, {}},
                                                {"F64", 8, {}}}};

const DTypeInfo* find_dtype(std::string_view name) {
  const auto* it =
      std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DTypeInfo& info) { return name == info.name; });
  return it == kDTypes.end() ? nullptr : it;
}

/// Bytes of a tensor, or nothing when the product does not fit 64 bits.
std::optional<std::uint64_t> tensor_bytes(std::span<const std::int64_t> shape, std::uint64_t element_size) {
  std::uint64_t product = element_size;
  for (const std::int64_t dim : shape) {
    if (__builtin_mul_overflow(product, static_cast<std::uint64_t>(dim), &product)) return std::nullopt;
  }
  return product;
}

struct Placed {
  SafetensorsEntry entry;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

Placed parse_entry(const std::string& name, const json& value, const FormatRules& rules) {
  rules.check(value.is_object(), "the entry of tensor '{}' is not an object", name);
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    rules.check(value.contains(key), "tensor '{}' has no {}", name, key);
  }
  Placed placed;
  placed.entry.name = name;
  const json& dtype = value["dtype"];
  const DTypeInfo* info = dtype.is_string() ? find_dtype(dtype.get_ref<const std::string&>()) : nullptr;
  rules.check(info != nullptr, "tensor '{}' has the unknown dtype {}", name, dtype.dump());
  placed.entry.dtype = info->name;

  const json& shape = value["shape"];
  rules.check(shape.is_array(), "the shape of tensor '{}' is not an array", name);
  for (const json& dim : shape) {
    const bool valid = dim.is_number_unsigned() && dim.get<std::uint64_t>() <= std::uint64_t{INT64_MAX};
    rules.check(valid, "the shape of tensor '{}' holds {}, which is no size", name, dim.dump());
    placed.entry.shape.push_back(dim.get<std::int64_t>());
  }

  const json& offsets = value["data_offsets"];
  const bool pair =
      offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() && offsets[1].is_number_unsigned();
  rules.check(pair, "the data_offsets of tensor '{}' are not two sizes", name);
  placed.begin = offsets[0].get<std::uint64_t>();
  placed.end = offsets[1].get<std::uint64_t>();
  rules.check(placed.begin <= placed.end, "the data of tensor '{}' ends before it begins", name);

  const auto bytes = tensor_bytes(placed.entry.shape, info->size);
  rules.check(bytes.has_value(), "the size of tensor '{}' overflows 64 bits", name);
  rules.check(*bytes == placed.end - placed.begin, "tensor '{}' has {} bytes of data where its shape and dtype need {}",
              name, placed.end - placed.begin, *bytes);
  return placed;
}

SafetensorsMetadata parse_metadata(const json& value, const FormatRules& rules) {
  rules.check(value.is_object(), "{} is not an object", kMetadataKey);
  SafetensorsMetadata metadata;
  for (const auto& [key, text] : value.items()) {
    rules.check(text.is_string(), "{} '{}' is not a string", kMetadataKey, key);
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

}  // namespace

SafetensorsEntry safetensors_entry(std::string name, const Tensor& tensor) {
  require(tensor.device() == Device::Cpu, "tensor '{}' is on {}", name, device_name(tensor.device()));
  return {std::move(name),
          dtype_name(tensor.dtype()),
          {tensor.shape().begin(), tensor.shape().end()},
          {static_cast<const std::byte*>(tensor.raw()), tensor.bytes()}};
}

std::uint64_t write_safetensors(const std::filesystem::path& path, std::vector<SafetensorsEntry> entries,
                                const SafetensorsMetadata& metadata) {
  for (const SafetensorsEntry& entry : entries) {
    const DTypeInfo* info = find_dtype(entry.dtype);
    require(info != nullptr, "tensor '{}' has the unknown dtype {}", entry.name, entry.dtype);
    require(tensor_bytes(entry.shape, info->size) == entry.bytes.size(), "tensor '{}' has {} bytes, not its shape's",
            entry.name, entry.bytes.size());
    require(entry.name != kMetadataKey, "a tensor cannot be named {}", kMetadataKey);
  }
  std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::pair(find_dtype(b.dtype)->size, std::string_view(a.name)) <
           std::pair(find_dtype(a.dtype)->size, std::string_view(b.name));
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  std::uint64_t offset = 0;
  std::map<std::string_view, bool> seen;
  for (const SafetensorsEntry& entry : entries) {
    require(seen.emplace(entry.name, true).second, "two tensors are named '{}'", entry.name);
    const std::uint64_t end = offset + entry.bytes.size();
    header[entry.name] = {{"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  require(text.size() <= kMaxHeaderBytes, "the header of '{}' has {} bytes", path.string(), text.size());

  AtomicFile file(path);
  Xxh3Stream checksum;
  const auto write = [&](std::span<const std::byte> bytes) {
    checksum.update(bytes);
    file.write(bytes);
  };
  const std::uint64_t length = text.size();
  write(std::as_bytes(std::span(&length, 1)));
  write(std::as_bytes(std::span(text)));
  for (const SafetensorsEntry& entry : entries) write(entry.bytes);
  file.commit();
  return checksum.digest();
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const FormatRules rules(path, "safetensors file");
  const std::span<const std::byte> bytes = file_.bytes();
  rules.check(bytes.size() >= kLengthBytes, "{} bytes are too few for a header", bytes.size());
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  rules.check(length <= kMaxHeaderBytes, "the header's length of {} bytes is above the limit of {}", length,
              kMaxHeaderBytes);
  rules.check(length <= bytes.size() - kLengthBytes, "the header of {} bytes does not fit the file of {}", length,
              bytes.size());
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  rules.check(text.starts_with('{'), "the header does not begin with '{{'");
  const json header = parse_json(text, fmt::format("header of '{}'", path.string()));

  std::vector<Placed> placed;
  for (const auto& [name, value] : header.items()) {
    if (name == kMetadataKey) {
      metadata_ = parse_metadata(value, rules);
    } else {
      placed.push_back(parse_entry(name, value, rules));
    }
  }
  std::sort(placed.begin(), placed.end(),
            [](const Placed& a, const Placed& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  const std::span<const std::byte> data = bytes.subspan(kLengthBytes + length);
  std::uint64_t expected = 0;
  for (Placed& p : placed) {
    rules.check(p.begin >= expected, "the data of tensor '{}' overlaps its neighbour's", p.entry.name);
    rules.check(p.begin == expected, "there is a hole of {} bytes before tensor '{}'", p.begin - expected,
                p.entry.name);
    rules.check(p.end <= data.size(), "the data of tensor '{}' lies beyond the end of the file", p.entry.name);
    p.entry.bytes = data.subspan(p.begin, p.end - p.begin);
    expected = p.end;
  }
  rules.check(expected == data.size(), "{} bytes after the last tensor belong to none", data.size() - expected);
  for (Placed& p : placed) {
    std::string name = p.entry.name;
    entries_.emplace(std::move(name), std::move(p.entry));
  }
}

const SafetensorsEntry& SafetensorsFile::entry(const std::string& name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) no_such_tensor(file_.path(), name, names_of(entries_));
  return it->second;
}

Tensor SafetensorsFile::view(const std::string& name) const {
  const SafetensorsEntry& found = entry(name);
  const DTypeInfo* info = find_dtype(found.dtype);
  if (!info->dtype) {
    user_error("tensor '{}' of '{}' is {}, which nibble does not compute with", name, file_.path().string(),
               found.dtype);
  }
  if (found.shape.size() > Tensor::kMaxDims) {
    user_error("tensor '{}' of '{}' has {} dimensions, more than {}", name, file_.path().string(), found.shape.size(),
               Tensor::kMaxDims);
  }
  if (reinterpret_cast<std::uintptr_t>(found.bytes.data()) % info->size != 0) {
    user_error(
        "tensor '{}' of '{}' is not aligned to its {} elements; write the file again with the safetensors library",
        name, file_.path().string(), found.dtype);
  }
  const std::vector<std::int64_t> shape = found.shape.empty() ? std::vector<std::int64_t>{1} : found.shape;
  return Tensor(const_cast<std::byte*>(found.bytes.data()), *info->dtype, shape);
}

void SafetensorsFile::read(const std::string& name, const Tensor& to) const {
  const SafetensorsEntry& found = entry(name);
  const std::vector<std::int64_t> shape = found.shape.empty() ? std::vector<std::int64_t>{1} : found.shape;
  if (found.dtype != dtype_name(to.dtype()) || !std::ranges::equal(shape, to.shape())) {
    user_error("tensor '{}' of '{}' is {} {} where {} is expected", name, file_.path().string(), found.dtype,
               json(shape).dump(), to_string(to));
  }
  // The bytes of a tensor nobody else sees may lie at any address of the file.
  copy(Tensor(const_cast<std::byte*>(found.bytes.data()), to.dtype(), to.shape()), to);
}

bool decode_floats(const std::string& dtype, const std::byte* bytes, const Tensor& to) {
  const DTypeInfo* info = find_dtype(dtype);
  if (info == nullptr || (info->dtype != DType::F32 && info->dtype != DType::BF16 && info->dtype != DType::F16)) {
    return false;
  }
  auto* values = to.data<float>();
  parallel_for(to.numel(), 1 << 16, [&](std::int64_t begin, std::int64_t end) {
    if (info->dtype == DType::F32) {
      std::memcpy(values + begin, bytes + 4 * begin, static_cast<std::size_t>(4 * (end - begin)));
      return;
    }
    const bool half = info->dtype == DType::F16;
    for (std::int64_t i = begin; i < end; ++i) {
      std::uint16_t code = 0;  // at any address of the file
      std::memcpy(&code, bytes + 2 * i, sizeof code);
      values[i] = half ? fp16_decode(code) : to_float(std::bit_cast<bf16>(code));
    }
  });
  return true;
}

void SafetensorsFile::read_floats(const std::string& name, const Tensor& to) const {
  const SafetensorsEntry& found = entry(name);
  const std::vector<std::int64_t> shape = found.shape.empty() ? std::vector<std::int64_t>{1} : found.shape;
  if (!std::ranges::equal(shape, to.shape())) {
    user_error("tensor '{}' of '{}' has the shape {} where {} is expected", name, file_.path().string(),
               json(shape).dump(), json(std::vector<std::int64_t>(to.shape().begin(), to.shape().end())).dump());
  }
  if (!decode_floats(found.dtype, found.bytes.data(), to)) {
    user_error("tensor '{}' of '{}' is {}; weights are read from F32, BF16 and F16", name, file_.path().string(),
               found.dtype);
  }
}

}  // namespace nibble
