#include "nibble/io/safetensors.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "nibble/io/checksum.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

/// A file from parts: the length field, the header text, and the tensor bytes.
std::string raw_file(std::uint64_t length, const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}
std::string raw_file(const std::string& header, const std::string& data) {
  return raw_file(header.size(), header, data);
}

void expect_refused(const std::string& bytes, const std::string& rule) {
  const TemporaryDirectory dir;
  const std::string path = dir.write("t.safetensors", bytes);
  const std::string message = user_error_of([&] { SafetensorsFile{path}; });
  EXPECT_NE(message.find(path), std::string::npos) << message;
  EXPECT_NE(message.find(rule), std::string::npos) << message;
}

template <class T>
SafetensorsEntry entry_of(const std::string& name, const char* dtype, const std::vector<T>& values,
                          std::vector<std::int64_t> shape) {
  return {name, dtype, std::move(shape), std::as_bytes(std::span(values))};
}

TEST(Safetensors, RoundTripsEveryDTypeAndShape) {
  const TemporaryDirectory dir;
  OwnedTensor f32(DType::F32, {2, 3}), bf(DType::BF16, {5}), f16(DType::F16, {1, 2, 3, 1}), u8(DType::U8, {7}),
      i32(DType::I32, {3, 1}), none(DType::F32, {0, 4});
  std::vector<std::pair<std::string, Tensor>> tensors = {
      {"layers.0.weight", f32}, {"b", bf}, {"half", f16}, {"codes", u8}, {"ids", i32}, {"empty", none}};
  std::uint8_t next = 1;
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, tensor] : tensors) {
    auto* p = static_cast<std::uint8_t*>(tensor.raw());
    for (std::size_t i = 0; i < tensor.bytes(); ++i) p[i] = next++;
    entries.push_back(safetensors_entry(name, tensor));
  }
  const std::vector<std::int64_t> wide = {INT64_MIN, -1, INT64_MAX};
  entries.push_back(entry_of("wide", "I64", wide, {3}));
  const std::vector<float> one = {2.5f};
  entries.push_back(entry_of("scalar", "F32", one, {}));
  write_safetensors(dir / "t.safetensors", entries, {{"format", "pt"}, {"note", "quote \" and \xC3\xA9"}});

  const SafetensorsFile file(dir / "t.safetensors");
  EXPECT_EQ(file.entries().size(), entries.size());
  EXPECT_EQ(file.metadata().at("note"), "quote \" and \xC3\xA9");
  for (const auto& [name, tensor] : tensors) {
    const Tensor view = file.view(name);
    EXPECT_EQ(to_string(view), to_string(tensor)) << name;
    EXPECT_TRUE(tensor.bytes() == 0 || std::memcmp(view.raw(), tensor.raw(), tensor.bytes()) == 0) << name;
    OwnedTensor copy(tensor.dtype(), tensor.shape());
    file.read(name, copy);
    EXPECT_TRUE(tensor.bytes() == 0 || std::memcmp(copy.view().raw(), tensor.raw(), tensor.bytes()) == 0) << name;
  }
  EXPECT_EQ(std::memcmp(file.entry("wide").bytes.data(), wide.data(), 24), 0);
  EXPECT_EQ(file.view("scalar").data<float>()[0], 2.5f);
  EXPECT_TRUE(file.entry("scalar").shape.empty());
}

TEST(Safetensors, ReturnsTheChecksumOfTheFile) {
  const TemporaryDirectory dir;
  const std::vector<float> values(100000, 1.5f);
  const std::uint64_t checksum = write_safetensors(dir / "t", {entry_of("x", "F32", values, {100000})});
  EXPECT_EQ(checksum, xxh3_64(read_file(dir / "t")));
}

TEST(Safetensors, DoesNotDependOnTheOrderOfTheEntries) {
  const TemporaryDirectory dir;
  const std::vector<float> a = {1, 2};
  const std::vector<std::uint8_t> b = {3};
  const std::vector<std::int64_t> c = {4};
  const std::vector<SafetensorsEntry> entries = {entry_of("b", "U8", b, {1}), entry_of("a", "F32", a, {2}),
                                                 entry_of("c", "I64", c, {1})};
  const std::vector<SafetensorsEntry> reversed(entries.rbegin(), entries.rend());
  EXPECT_EQ(write_safetensors(dir / "1", entries), write_safetensors(dir / "2", reversed));
}

TEST(Safetensors, AlignsEveryTensorToItsElements) {
  const TemporaryDirectory dir;
  const std::vector<std::uint8_t> odd = {1, 2, 3};
  const std::vector<std::uint16_t> two = {1};
  const std::vector<float> four = {1};
  const std::vector<std::int64_t> eight = {1};
  write_safetensors(dir / "t", {entry_of("a", "U8", odd, {3}), entry_of("b", "BF16", two, {1}),
                                entry_of("c", "F32", four, {1}), entry_of("d", "I64", eight, {1})});
  const SafetensorsFile file(dir / "t");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.entry("d").bytes.data()) % 8, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.entry("c").bytes.data()) % 4, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.entry("b").bytes.data()) % 2, 0u);
}

TEST(Safetensors, AFileOfNoTensorsIsValid) {
  const TemporaryDirectory dir;
  write_safetensors(dir / "t", {});
  EXPECT_TRUE(SafetensorsFile(dir / "t").entries().empty());
}

TEST(Safetensors, TheWriterRefusesWhatTheReaderWould) {
  const TemporaryDirectory dir;
  const std::vector<float> two = {1, 2};
  const auto write = [&](std::vector<SafetensorsEntry> entries) { write_safetensors(dir / "t", std::move(entries)); };
  EXPECT_THROW(write({entry_of("x", "F32", two, {3})}), InternalError);
  EXPECT_THROW(write({entry_of("x", "F31", two, {2})}), InternalError);
  EXPECT_THROW(write({entry_of("__metadata__", "F32", two, {2})}), InternalError);
  EXPECT_THROW(write({entry_of("x", "F32", two, {2}), entry_of("x", "F32", two, {2})}), InternalError);
  EXPECT_TRUE(dir.names().empty());
}

TEST(Safetensors, AcceptsAHeaderPaddedWithSpaces) {
  const TemporaryDirectory dir;
  const std::string path =
      dir.write("t", raw_file(R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}    )", "ab"));
  EXPECT_EQ(SafetensorsFile(path).view("x").data<std::uint8_t>()[1], 'b');
}

TEST(SafetensorsRules, TheHeaderFitsTheFileAndTheLimit) {
  expect_refused("", "too few for a header");
  expect_refused("1234567", "too few for a header");
  expect_refused(raw_file(100'000'001, "{}", ""), "above the limit");
  expect_refused(raw_file(UINT64_MAX, "{}", ""), "above the limit");
  expect_refused(raw_file(3, "{}", ""), "does not fit the file");
  expect_refused(raw_file(0, "", ""), "does not begin with '{'");
}

TEST(SafetensorsRules, TheHeaderIsAJsonObject) {
  expect_refused(raw_file(" {}", ""), "does not begin with '{'");
  expect_refused(raw_file("[]", ""), "does not begin with '{'");
  expect_refused(raw_file(R"({"x":)", ""), "malformed JSON");
  expect_refused(raw_file("{}{}", ""), "malformed JSON");
  expect_refused(raw_file("{\"\xFF\":1}", ""), "malformed JSON");
}

TEST(SafetensorsRules, NoNameOccursTwice) {
  expect_refused(raw_file(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                          R"("x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                          "ab"),
                 "'x' occurs twice");
}

TEST(SafetensorsRules, MetadataMapsStringsToStrings) {
  expect_refused(raw_file(R"({"__metadata__":"x"})", ""), "__metadata__ is not an object");
  expect_refused(raw_file(R"({"__metadata__":{"step":3}})", ""), "'step' is not a string");
}

TEST(SafetensorsRules, EveryEntryHasADTypeAShapeAndOffsets) {
  expect_refused(raw_file(R"({"x":3})", ""), "is not an object");
  expect_refused(raw_file(R"({"x":{"shape":[1],"data_offsets":[0,1]}})", "a"), "'x' has no dtype");
  expect_refused(raw_file(R"({"x":{"dtype":"U8","data_offsets":[0,1]}})", "a"), "'x' has no shape");
  expect_refused(raw_file(R"({"x":{"dtype":"U8","shape":[1]}})", "a"), "'x' has no data_offsets");
  expect_refused(raw_file(R"({"x":{"dtype":"F33","shape":[1],"data_offsets":[0,1]}})", "a"), "unknown dtype \"F33\"");
  expect_refused(raw_file(R"({"x":{"dtype":7,"shape":[1],"data_offsets":[0,1]}})", "a"), "unknown dtype 7");
  expect_refused(raw_file(R"({"x":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", "a"), "is not an array");
  expect_refused(raw_file(R"({"x":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", "a"), "holds -1");
  expect_refused(raw_file(R"({"x":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", "a"), "holds 1.0");
  expect_refused(raw_file(R"({"x":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]}})", "a"),
                 "which is no size");
  expect_refused(raw_file(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", "a"), "not two sizes");
  expect_refused(raw_file(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}})", "a"), "not two sizes");
  expect_refused(raw_file(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", "a"), "ends before it begins");
}

TEST(SafetensorsRules, ShapeAndDTypeGiveTheSize) {
  expect_refused(raw_file(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,7]}})", "1234567"),
                 "7 bytes of data where its shape and dtype need 8");
  expect_refused(raw_file(R"({"x":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", ""),
                 "overflows");
  expect_refused(raw_file(R"({"x":{"dtype":"I64","shape":[2305843009213693952],"data_offsets":[0,0]}})", ""),
                 "overflows");
}

TEST(SafetensorsRules, DataCoversTheFileWithoutHolesOrOverlap) {
  const auto two = [](const char* first, const char* second) {
    return fmt::format(R"({{"x":{{"dtype":"U8","shape":[2],"data_offsets":{}}},)"
                       R"("y":{{"dtype":"U8","shape":[2],"data_offsets":{}}}}})",
                       first, second);
  };
  expect_refused(raw_file(two("[0,2]", "[1,3]"), "abc"), "overlaps");
  expect_refused(raw_file(two("[0,2]", "[0,2]"), "ab"), "overlaps");
  expect_refused(raw_file(two("[0,2]", "[3,5]"), "abcde"), "a hole of 1 bytes before tensor 'y'");
  expect_refused(raw_file(two("[1,3]", "[3,5]"), "abcde"), "a hole of 1 bytes before tensor 'x'");
  expect_refused(raw_file(two("[2,4]", "[0,2]"), "abc"), "beyond the end of the file");
  expect_refused(raw_file(two("[0,2]", "[2,4]"), "abcde"), "1 bytes after the last tensor");
}

TEST(SafetensorsRules, NoTruncationOfAValidFileIsAccepted) {
  const TemporaryDirectory dir;
  const std::vector<float> values = {1, 2, 3};
  write_safetensors(dir / "t", {entry_of("x", "F32", values, {3})}, {{"k", "v"}});
  const std::string bytes = read_file(dir / "t");
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::string path = dir.write("cut", bytes.substr(0, size));
    EXPECT_THROW(SafetensorsFile{path}, UserError) << size;
  }
}

TEST(SafetensorsFile, SuggestsTheNameThatWasMeant) {
  const TemporaryDirectory dir;
  const std::vector<float> values = {1};
  write_safetensors(dir / "t", {entry_of("model.norm.weight", "F32", values, {1})});
  const SafetensorsFile file(dir / "t");
  EXPECT_TRUE(file.contains("model.norm.weight"));
  EXPECT_FALSE(file.contains("model.norm.bias"));
  EXPECT_USER_ERROR(file.view("model.norm.weigth"), "did you mean 'model.norm.weight'?");
}

TEST(SafetensorsFile, RefusesATensorOfAnotherShapeOrDType) {
  const TemporaryDirectory dir;
  const std::vector<float> values = {1, 2, 3, 4};
  write_safetensors(dir / "t", {entry_of("x", "F32", values, {2, 2})});
  const SafetensorsFile file(dir / "t");
  OwnedTensor flat(DType::F32, {4}), ints(DType::I32, {2, 2});
  EXPECT_USER_ERROR(file.read("x", flat), "is F32 [2,2] where F32 [4] on cpu is expected");
  EXPECT_USER_ERROR(file.read("x", ints), "is expected");
}

TEST(SafetensorsFile, RefusesViewsThatCannotBe) {
  const TemporaryDirectory dir;
  const std::vector<std::int64_t> wide = {1};
  const std::vector<float> one = {1};
  write_safetensors(dir / "t", {entry_of("wide", "I64", wide, {1}), entry_of("deep", "F32", one, {1, 1, 1, 1, 1})});
  const SafetensorsFile file(dir / "t");
  EXPECT_USER_ERROR(file.view("wide"), "is I64");
  EXPECT_USER_ERROR(file.view("deep"), "5 dimensions");
  const std::string crooked = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  const std::string path = dir.write("crooked", raw_file(crooked + std::string(9 - crooked.size() % 8, ' '), "abcd"));
  EXPECT_USER_ERROR(SafetensorsFile(path).view("x"), "not aligned");
}

}  // namespace
}  // namespace nibble
