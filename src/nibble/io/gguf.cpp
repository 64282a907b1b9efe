#include "nibble/io/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>
#include <type_traits>

#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/format.h"
#include "nibble/io/format_rules.h"
#include "nibble/io/tensor_source.h"
#include "nibble/tensor/error.h"

namespace nibble {

static_assert(std::endian::native == std::endian::little, "values and tensors are written as they lie in memory");

namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr const char* kAlignmentKey = "general.alignment";
constexpr std::uint32_t kDefaultAlignment = 32;
constexpr std::size_t kMaxDims = 4;                         // GGML_MAX_DIMS
constexpr std::size_t kMaxTensorName = 64;                  // of the format
constexpr std::size_t kMaxKey = (1 << 16) - 1;              // of the format
constexpr std::uint64_t kLeastValueBytes = 8 + 4 + 1;       // an empty key, a type, a byte
constexpr std::uint64_t kLeastTensorBytes = 8 + 4 + 4 + 8;  // an empty name, no dimension
constexpr std::size_t kArrayIndex = 9;
static_assert(std::is_same_v<std::variant_alternative_t<kArrayIndex, GgufValue>, GgufArray>);
static_assert(std::variant_size_v<GgufValue> == 13 && std::variant_size_v<GgufArray> == 13);

constexpr bool is_power_of_two(std::uint64_t n) { return n != 0 && (n & (n - 1)) == 0; }
constexpr std::uint64_t align_up(std::uint64_t n, std::uint64_t alignment) {
  return (n + alignment - 1) / alignment * alignment;
}

/// Bytes of a tensor's data, or nothing when they or its elements do not fit 64 bits; rows are whole blocks. The
/// elements must fit whatever the order in which the sizes are multiplied, so a size of 0 does not make up for the
/// others.
std::optional<std::uint64_t> data_bytes(std::span<const std::int64_t> shape, const GgmlTypeInfo& type) {
  std::int64_t elements = 1;
  for (const std::int64_t size : shape) {
    if (__builtin_mul_overflow(elements, std::max<std::int64_t>(size, 1), &elements)) return std::nullopt;
  }
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  const auto blocks = static_cast<std::uint64_t>(elements / type.block_size);
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(blocks, static_cast<std::uint64_t>(type.block_bytes), &bytes)) return std::nullopt;
  return bytes;
}

bool whole_blocks(std::span<const std::int64_t> shape, const GgmlTypeInfo& type) {
  return (shape.empty() ? 1 : shape.back()) % type.block_size == 0;
}

/// Reads values one after the other; what lies beyond the end of the file is a broken rule.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const FormatRules& rules) : bytes_(bytes), rules_(rules) {}

  std::uint64_t position() const { return at_; }
  std::uint64_t remaining() const { return bytes_.size() - at_; }

  std::span<const std::byte> take(std::uint64_t n, std::string_view what) {
    rules_.check(n <= remaining(), "it ends within {}", what);
    const auto taken = bytes_.subspan(at_, n);
    at_ += n;
    return taken;
  }
  template <class T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  std::string text(std::uint64_t most, std::string_view what) {
    const auto length = number<std::uint64_t>(what);
    rules_.check(length <= most, "{} has {} bytes, more than {}", what, length, most);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  bool boolean(std::string_view what) {
    const auto byte = number<std::uint8_t>(what);
    rules_.check(byte <= 1, "{} is a bool of value {}", what, byte);
    return byte == 1;
  }
  template <class T>
  T value(std::string_view what) {
    if constexpr (std::is_same_v<T, bool>) {
      return boolean(what);
    } else if constexpr (std::is_same_v<T, std::string>) {
      return text(std::numeric_limits<std::uint64_t>::max(), what);
    } else {
      return number<T>(what);
    }
  }

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t at_ = 0;
  const FormatRules& rules_;
};

/// Calls f.operator()<I>() for the alternative of V whose index is `index`, which exists.
template <class V, class F, std::size_t... I>
void with_index(std::size_t index, F&& f, std::index_sequence<I...>) {
  ((index == I ? f.template operator()<I>() : void()), ...);
}
template <class V, class F>
void with_index(std::size_t index, F&& f) {
  with_index<V>(index, f, std::make_index_sequence<std::variant_size_v<V>>());
}

GgufArray read_array(Cursor& in, const FormatRules& rules, const std::string& key) {
  const std::string what = fmt::format("the value of '{}'", key);
  const auto type = in.number<std::uint32_t>(what);
  rules.check(type != kArrayIndex, "{} is an array of arrays, which is not supported", what);
  rules.check(type < std::variant_size_v<GgufArray>, "{} is an array of the unknown type {}", what, type);
  const auto n = in.number<std::uint64_t>(what);
  GgufArray array;
  with_index<GgufArray>(type, [&]<std::size_t I>() {
    using Elements = std::variant_alternative_t<I, GgufArray>;
    if constexpr (!std::is_same_v<Elements, std::monostate>) {
      using T = typename Elements::value_type;
      constexpr std::uint64_t least = std::is_same_v<T, std::string> ? 8 : sizeof(T);  // bytes of an element
      rules.check(n <= in.remaining() / least, "it ends within {}, an array of {}", what, n);
      Elements elements;
      elements.reserve(n);
      for (std::uint64_t i = 0; i < n; ++i) elements.push_back(in.value<T>(what));
      array.emplace<I>(std::move(elements));
    }
  });
  return array;
}

GgufValue read_value(Cursor& in, const FormatRules& rules, const std::string& key) {
  const std::string what = fmt::format("the value of '{}'", key);
  const auto type = in.number<std::uint32_t>(what);
  rules.check(type < std::variant_size_v<GgufValue>, "{} has the unknown type {}", what, type);
  GgufValue value;
  if (type == kArrayIndex) {
    value = read_array(in, rules, key);
    return value;
  }
  with_index<GgufValue>(type, [&]<std::size_t I>() {
    using T = std::variant_alternative_t<I, GgufValue>;
    if constexpr (!std::is_same_v<T, GgufArray>) value.emplace<I>(in.value<T>(what));
  });
  return value;
}

struct Placed {
  GgufTensor tensor;
  std::uint64_t begin = 0;  // from the first byte of the data
  std::uint64_t bytes = 0;
};

Placed read_tensor_info(Cursor& in, const FormatRules& rules) {
  Placed placed;
  GgufTensor& tensor = placed.tensor;
  tensor.name = in.text(kMaxTensorName, "the name of a tensor");
  const std::string what = fmt::format("the description of tensor '{}'", tensor.name);
  const auto dims = in.number<std::uint32_t>(what);
  rules.check(dims <= kMaxDims, "tensor '{}' has {} dimensions, more than {}", tensor.name, dims, kMaxDims);
  for (std::uint32_t i = 0; i < dims; ++i) {
    const auto size = in.number<std::uint64_t>(what);
    rules.check(size <= std::uint64_t{INT64_MAX}, "the shape of tensor '{}' holds {}, which is no size", tensor.name,
                size);
    tensor.shape.push_back(static_cast<std::int64_t>(size));
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  const auto number = in.number<std::uint32_t>(what);
  const GgmlTypeInfo* type = find_ggml_type(number);
  rules.check(type != nullptr, "tensor '{}' has the unknown ggml type {}", tensor.name, number);
  tensor.type = type->type;
  rules.check(whole_blocks(tensor.shape, *type), "the rows of tensor '{}' are not whole blocks of {}, {} elements each",
              tensor.name, type->name, type->block_size);
  const auto bytes = data_bytes(tensor.shape, *type);
  rules.check(bytes.has_value(), "the size of tensor '{}' overflows 64 bits", tensor.name);
  placed.bytes = *bytes;
  placed.begin = in.number<std::uint64_t>(what);
  return placed;
}

std::uint64_t alignment_of(const GgufMetadata& metadata, const auto& check) {
  for (const auto& [key, value] : metadata) {
    if (key != kAlignmentKey) continue;
    const auto* alignment = std::get_if<std::uint32_t>(&value);
    check(alignment != nullptr && is_power_of_two(*alignment), "general.alignment is not a power of two of type u32");
    return *alignment;
  }
  return kDefaultAlignment;
}

/// Writes values one after the other, and their checksum.
class Writer {
 public:
  explicit Writer(const std::filesystem::path& path) : file_(path) {}

  void bytes(std::span<const std::byte> data) {
    checksum_.update(data);
    file_.write(data);
  }
  template <class T>
  void value(const T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
      this->value(std::uint64_t{value.size()});
      bytes(std::as_bytes(std::span(value)));
    } else if constexpr (std::is_same_v<T, bool>) {
      this->value(static_cast<std::uint8_t>(value));
    } else {
      static_assert(std::is_arithmetic_v<T>);
      bytes(std::as_bytes(std::span(&value, 1)));
    }
  }
  void value(const GgufArray& array) {
    value(static_cast<std::uint32_t>(array.index()));
    std::visit(
        [&]<class Elements>(const Elements& elements) {
          if constexpr (!std::is_same_v<Elements, std::monostate>) {
            value(std::uint64_t{elements.size()});
            for (const auto& element : elements) value(typename Elements::value_type(element));
          }
        },
        array);
  }
  void pad_to(std::uint64_t alignment) {
    const std::vector<std::byte> zeros(align_up(file_.size(), alignment) - file_.size());
    bytes(zeros);
  }
  std::uint64_t commit() {
    file_.commit();
    return checksum_.digest();
  }

 private:
  AtomicFile file_;
  Xxh3Stream checksum_;
};

/// The value as T where it is one of the types that `T` may be made of.
template <class T, class U>
std::optional<T> converted(const U& value) {
  if constexpr (!std::is_arithmetic_v<U> || std::is_same_v<U, bool>) {
    return std::nullopt;
  } else if constexpr (std::is_integral_v<T>) {
    if constexpr (!std::is_integral_v<U>) return std::nullopt;
    if (!std::in_range<T>(static_cast<std::conditional_t<std::is_integral_v<U>, U, T>>(value))) return std::nullopt;
    return static_cast<T>(value);
  } else {
    return static_cast<T>(value);
  }
}

template <class T>
std::optional<T> converted_value(const GgufValue& value) {
  return std::visit([](const auto& v) { return converted<T>(v); }, value);
}

template <class T>
std::optional<std::vector<T>> converted_array(const GgufValue& value) {
  const auto* array = std::get_if<GgufArray>(&value);
  if (array == nullptr) return std::nullopt;
  return std::visit(
      []<class Elements>(const Elements& elements) -> std::optional<std::vector<T>> {
        std::vector<T> result;
        if constexpr (!std::is_same_v<Elements, std::monostate>) {
          for (const auto& element : elements) {
            const auto one = converted<T>(static_cast<const typename Elements::value_type&>(element));
            if (!one) return std::nullopt;
            result.push_back(*one);
          }
        }
        return result;
      },
      *array);
}

/// The value of a key as `convert` makes it; UserError where it makes nothing.
template <class F>
auto converted_of(const GgufFile& file, std::string_view key, const char* what, const F& convert) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return decltype(convert(*value))();
  auto result = convert(*value);
  if (!result) user_error("'{}': {} is not {}", file.path().string(), key, what);
  return result;
}

}  // namespace

std::uint64_t gguf_bytes(const GgufTensorInfo& tensor) {
  const GgmlTypeInfo& type = ggml_type_info(tensor.type);
  require(whole_blocks(tensor.shape, type), "the rows of tensor '{}' are not whole blocks of {}", tensor.name,
          type.name);
  const auto bytes = data_bytes(tensor.shape, type);
  require(bytes.has_value(), "the size of tensor '{}' overflows 64 bits", tensor.name);
  return *bytes;
}

std::uint64_t write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                         const std::vector<GgufTensorInfo>& tensors,
                         const std::function<std::span<const std::byte>(std::size_t)>& load, std::uint32_t version) {
  require(version == 2 || version == 3, "GGUF version {}", version);
  std::set<std::string_view> seen;
  for (const auto& [key, value] : metadata) {
    require(!key.empty() && key.size() <= kMaxKey, "the key '{}' has {} bytes", key, key.size());
    require(seen.insert(key).second, "the key '{}' occurs twice", key);
    const auto* array = std::get_if<GgufArray>(&value);
    require(array == nullptr || array->index() != kArrayIndex, "the value of '{}' is an array of arrays", key);
  }
  const std::uint64_t alignment =
      alignment_of(metadata, [](bool holds, const char* rule) { require(holds, "{}", rule); });

  Writer out(path);
  out.bytes(std::as_bytes(std::span(kMagic)));
  out.value(version);
  out.value(std::uint64_t{tensors.size()});
  out.value(std::uint64_t{metadata.size()});
  for (const auto& [key, value] : metadata) {
    out.value(key);
    out.value(static_cast<std::uint32_t>(value.index()));
    std::visit([&](const auto& v) { out.value(v); }, value);
  }
  seen.clear();
  std::uint64_t offset = 0;
  for (const GgufTensorInfo& tensor : tensors) {
    require(!tensor.name.empty() && tensor.name.size() <= kMaxTensorName, "the tensor's name '{}' has {} bytes",
            tensor.name, tensor.name.size());
    require(seen.insert(tensor.name).second, "two tensors are named '{}'", tensor.name);
    require(tensor.shape.size() <= kMaxDims, "tensor '{}' has {} dimensions", tensor.name, tensor.shape.size());
    out.value(tensor.name);
    out.value(static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) {
      require(*size >= 0, "tensor '{}' has the size {}", tensor.name, *size);
      out.value(static_cast<std::uint64_t>(*size));
    }
    out.value(static_cast<std::uint32_t>(tensor.type));
    out.value(offset);
    offset = align_up(offset + gguf_bytes(tensor), alignment);
  }
  out.pad_to(alignment);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::span<const std::byte> data = load(i);
    require(data.size() == gguf_bytes(tensors[i]), "tensor '{}' has {} bytes, not its shape's", tensors[i].name,
            data.size());
    out.bytes(data);
    out.pad_to(alignment);
  }
  return out.commit();
}

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path) {
  const FormatRules rules(file_.path(), "GGUF file");
  const std::span<const std::byte> bytes = file_.bytes();
  Cursor in(bytes, rules);
  const auto magic = in.take(kMagic.size(), "its first four bytes");
  rules.check(std::ranges::equal(magic, std::as_bytes(std::span(kMagic))), "it does not begin with 'GGUF'");
  version_ = in.number<std::uint32_t>("the version");
  rules.check(version_ % 65536 != 0, "it is big-endian, which is not supported; convert it to little-endian first");
  rules.check(version_ == 2 || version_ == 3, "it has version {}; nibble reads 2 and 3", version_);
  const auto tensor_count = in.number<std::uint64_t>("the number of tensors");
  const auto value_count = in.number<std::uint64_t>("the number of metadata values");
  rules.check(value_count <= in.remaining() / kLeastValueBytes, "{} metadata values do not fit the file", value_count);
  rules.check(tensor_count <= in.remaining() / kLeastTensorBytes, "{} tensors do not fit the file", tensor_count);

  std::set<std::string> seen;
  for (std::uint64_t i = 0; i < value_count; ++i) {
    std::string key = in.text(kMaxKey, "a metadata key");
    rules.check(!key.empty(), "a metadata key is empty");
    rules.check(seen.insert(key).second, "the metadata key '{}' occurs twice", key);
    GgufValue value = read_value(in, rules, key);
    metadata_.emplace_back(std::move(key), std::move(value));
  }
  const std::uint64_t alignment =
      alignment_of(metadata_, [&](bool holds, const char* rule) { rules.check(holds, "{}", rule); });

  std::vector<Placed> placed;
  seen.clear();
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    placed.push_back(read_tensor_info(in, rules));
    const Placed& p = placed.back();
    rules.check(!p.tensor.name.empty(), "the name of a tensor is empty");
    rules.check(seen.insert(p.tensor.name).second, "two tensors are named '{}'", p.tensor.name);
    rules.check(p.begin % alignment == 0, "the data of tensor '{}' begins at {}, which is not aligned to {}",
                p.tensor.name, p.begin, alignment);
  }
  // A file without data may end where the padding would begin.
  const std::uint64_t data_begin = std::min<std::uint64_t>(align_up(in.position(), alignment), bytes.size());
  const std::span<const std::byte> data = bytes.subspan(data_begin);
  std::sort(placed.begin(), placed.end(),
            [](const Placed& a, const Placed& b) { return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes); });
  std::uint64_t end = 0;
  for (Placed& p : placed) {
    rules.check(p.begin >= end, "the data of tensor '{}' overlaps its neighbour's", p.tensor.name);
    rules.check(p.begin <= data.size() && p.bytes <= data.size() - p.begin,
                "the data of tensor '{}' lies beyond the end of the file", p.tensor.name);
    p.tensor.bytes = data.subspan(p.begin, p.bytes);
    end = p.begin + p.bytes;
    std::string name = p.tensor.name;
    tensors_.emplace(std::move(name), std::move(p.tensor));
  }
}

const GgufTensor& GgufFile::tensor(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) no_such_tensor(path(), name, names_of(tensors_));
  return it->second;
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto it = std::find_if(metadata_.begin(), metadata_.end(), [&](const auto& item) { return item.first == key; });
  return it == metadata_.end() ? nullptr : &it->second;
}

std::optional<std::string> GgufFile::text(std::string_view key) const {
  return converted_of(*this, key, "a text", [](const GgufValue& value) {
    const auto* text = std::get_if<std::string>(&value);
    return text == nullptr ? std::nullopt : std::optional(*text);
  });
}

std::optional<std::int64_t> GgufFile::integer(std::string_view key) const {
  return converted_of(*this, key, "an integer of 64 bits", converted_value<std::int64_t>);
}

std::optional<double> GgufFile::number(std::string_view key) const {
  return converted_of(*this, key, "a number", converted_value<double>);
}

std::optional<bool> GgufFile::flag(std::string_view key) const {
  return converted_of(*this, key, "a bool", [](const GgufValue& value) {
    const auto* flag = std::get_if<bool>(&value);
    return flag == nullptr ? std::nullopt : std::optional(*flag);
  });
}

const std::vector<std::string>* GgufFile::texts(std::string_view key) const {
  return converted_of(*this, key, "an array of texts", [](const GgufValue& value) {
    const auto* array = std::get_if<GgufArray>(&value);
    return array == nullptr ? nullptr : std::get_if<std::vector<std::string>>(array);
  });
}

std::optional<std::vector<std::int64_t>> GgufFile::integers(std::string_view key) const {
  return converted_of(*this, key, "an array of integers of 64 bits", converted_array<std::int64_t>);
}

std::optional<std::vector<double>> GgufFile::numbers(std::string_view key) const {
  return converted_of(*this, key, "an array of numbers", converted_array<double>);
}

bool is_gguf(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  return file.read(magic, sizeof magic) && std::string_view(magic, sizeof magic) == kMagic;
}

}  // namespace nibble
