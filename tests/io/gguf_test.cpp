#include "nibble/io/gguf.h"

#include <cstring>

#include "nibble/io/checksum.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

/// The bytes of a file, put together value by value.
class Raw {
 public:
  template <class T>
  Raw& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Raw& text(const std::string& text) {
    number(std::uint64_t{text.size()});
    bytes_ += text;
    return *this;
  }
  Raw& raw(const std::string& bytes) {
    bytes_ += bytes;
    return *this;
  }
  Raw& pad(std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  Raw& tensor(const std::string& name, const std::vector<std::uint64_t>& sizes, std::uint32_t type,
              std::uint64_t offset) {
    text(name).number(static_cast<std::uint32_t>(sizes.size()));
    for (const std::uint64_t size : sizes) number(size);
    return number(type).number(offset);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

Raw header(std::uint64_t tensors, std::uint64_t values, std::uint32_t version = 3) {
  return Raw().raw("GGUF").number(version).number(tensors).number(values);
}

void expect_refused(const Raw& file, const std::string& rule) {
  const TemporaryDirectory dir;
  const std::string path = dir.write("m.gguf", file.bytes());
  const std::string message = user_error_of([&] { GgufFile{path}; });
  EXPECT_NE(message.find(path), std::string::npos) << message;
  EXPECT_NE(message.find(rule), std::string::npos) << message;
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

GgufMetadata every_type() {
  return {{"u8", std::uint8_t{200}},
          {"i8", std::int8_t{-100}},
          {"u16", std::uint16_t{60000}},
          {"i16", std::int16_t{-30000}},
          {"u32", std::uint32_t{4000000000}},
          {"i32", std::int32_t{-2000000000}},
          {"f32", 1.5f},
          {"yes", true},
          {"no", false},
          {"text", std::string("caf\xC3\xA9")},
          {"u64", UINT64_MAX},
          {"i64", INT64_MIN},
          {"f64", 0.1},
          {"a.u8", GgufArray(std::vector<std::uint8_t>{1, 255})},
          {"a.i8", GgufArray(std::vector<std::int8_t>{-1})},
          {"a.u16", GgufArray(std::vector<std::uint16_t>{65535})},
          {"a.i16", GgufArray(std::vector<std::int16_t>{-7, 7})},
          {"a.u32", GgufArray(std::vector<std::uint32_t>{1, 2, 3})},
          {"a.i32", GgufArray(std::vector<std::int32_t>{-1, 2})},
          {"a.f32", GgufArray(std::vector<float>{0.5f, -0.0f})},
          {"a.bool", GgufArray(std::vector<bool>{true, false, true})},
          {"a.text", GgufArray(std::vector<std::string>{"", "two words"})},
          {"a.u64", GgufArray(std::vector<std::uint64_t>{UINT64_MAX})},
          {"a.i64", GgufArray(std::vector<std::int64_t>{-5})},
          {"a.f64", GgufArray(std::vector<double>{1e300})},
          {"a.empty", GgufArray(std::vector<std::string>{})}};
}

TEST(Gguf, RoundTripsEveryValueAndTensorInBothVersions) {
  const TemporaryDirectory dir;
  const std::vector<float> floats = {1, 2, 3, 4, 5, 6};
  const std::vector<std::uint8_t> blocks(2 * 3 * 20, 7), empty;
  const std::vector<std::span<const std::byte>> data = {bytes_of(floats), bytes_of(blocks), bytes_of(empty)};
  for (const std::uint32_t version : {2u, 3u}) {
    const std::uint64_t checksum = write_gguf(
        dir / "m.gguf", every_type(),
        {{"matrix", GgmlType::F32, {2, 3}}, {"blocks", GgmlType::Q4_1, {3, 64}}, {"none", GgmlType::BF16, {0}}},
        [&](std::size_t i) { return data[i]; }, version);
    EXPECT_EQ(checksum, xxh3_64(read_file(dir / "m.gguf")));
    const GgufFile file(dir / "m.gguf");
    EXPECT_EQ(file.version(), version);
    EXPECT_EQ(file.metadata(), every_type());
    ASSERT_EQ(file.tensors().size(), 3u);
    EXPECT_EQ(file.tensor("matrix").shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(file.tensor("matrix").type, GgmlType::F32);
    EXPECT_TRUE(std::ranges::equal(file.tensor("matrix").bytes, data[0]));
    EXPECT_EQ(file.tensor("blocks").shape, (std::vector<std::int64_t>{3, 64}));
    EXPECT_TRUE(std::ranges::equal(file.tensor("blocks").bytes, data[1]));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.tensor("blocks").bytes.data()) % 32, 0u);
    EXPECT_TRUE(file.tensor("none").bytes.empty());
    EXPECT_USER_ERROR((void)file.tensor("matrx"), "did you mean 'matrix'?");
  }
}

TEST(Gguf, ReadsAFileThatIsSpelledByteByByte) {
  const TemporaryDirectory dir;
  // Sizes are written with the innermost first; the second tensor lies before the first.
  const Raw file = header(2, 1)
                       .text("answer")
                       .number(std::uint32_t{4})
                       .number(std::uint32_t{42})
                       .tensor("a", {3, 1}, 0, 32)
                       .tensor("b", {1, 2}, 1, 0)
                       .pad()
                       .number(std::uint16_t{0x3C00})
                       .number(std::uint16_t{0xC000})
                       .pad()
                       .number(1.0f)
                       .number(2.0f)
                       .number(3.0f);
  const GgufFile read(dir.write("m.gguf", file.bytes()));
  EXPECT_EQ(read.integer("answer"), 42);
  EXPECT_EQ(read.tensor("a").shape, (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(read.tensor("b").shape, (std::vector<std::int64_t>{2, 1}));
  float third = 0;
  std::memcpy(&third, read.tensor("a").bytes.data() + 8, 4);
  EXPECT_EQ(third, 3.0f);
  EXPECT_EQ(read.tensor("b").bytes[3], std::byte{0xC0});
}

TEST(Gguf, AFileOfMetadataAloneNeedsNoPadding) {
  const TemporaryDirectory dir;
  EXPECT_TRUE(GgufFile(dir.write("m.gguf", header(0, 0).bytes())).tensors().empty());
  write_gguf(dir / "n.gguf", {}, {}, [](std::size_t) { return std::span<const std::byte>(); });
  EXPECT_TRUE(GgufFile(dir / "n.gguf").metadata().empty());
}

TEST(Gguf, TheAlignmentIsTheFiles) {
  const TemporaryDirectory dir;
  const std::vector<std::uint8_t> one = {9};
  write_gguf(dir / "m.gguf", {{"general.alignment", std::uint32_t{256}}},
             {{"a", GgmlType::I8, {1}}, {"b", GgmlType::I8, {1}}}, [&](std::size_t) { return bytes_of(one); });
  const GgufFile file(dir / "m.gguf");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.tensor("b").bytes.data()) % 256, 0u);
  EXPECT_EQ(file.tensor("b").bytes.data() - file.tensor("a").bytes.data(), 256);
}

TEST(Gguf, TypedValuesTakeEveryWidthAndRefuseAnotherKind) {
  const TemporaryDirectory dir;
  write_gguf(dir / "m.gguf", every_type(), {}, [](std::size_t) { return std::span<const std::byte>(); });
  const GgufFile file(dir / "m.gguf");
  EXPECT_EQ(file.integer("u8"), 200);
  EXPECT_EQ(file.integer("i64"), INT64_MIN);
  EXPECT_EQ(file.number("f32"), 1.5);
  EXPECT_EQ(file.number("i16"), -30000.0);
  EXPECT_EQ(file.flag("yes"), true);
  EXPECT_EQ(file.text("text"), "caf\xC3\xA9");
  EXPECT_EQ(file.texts("a.text")->at(1), "two words");
  EXPECT_EQ(file.integers("a.i16"), (std::vector<std::int64_t>{-7, 7}));
  EXPECT_EQ(file.numbers("a.f32"), (std::vector<double>{0.5, -0.0}));
  EXPECT_EQ(file.text("absent"), std::nullopt);
  EXPECT_EQ(file.integer("absent"), std::nullopt);
  EXPECT_EQ(file.texts("absent"), nullptr);
  EXPECT_EQ(file.integers("absent"), std::nullopt);
  EXPECT_USER_ERROR((void)file.integer("u64"), "u64 is not an integer of 64 bits");
  EXPECT_USER_ERROR((void)file.integer("f32"), "f32 is not an integer");
  EXPECT_USER_ERROR((void)file.integer("yes"), "yes is not an integer");
  EXPECT_USER_ERROR((void)file.number("text"), "text is not a number");
  EXPECT_USER_ERROR((void)file.flag("u8"), "u8 is not a bool");
  EXPECT_USER_ERROR((void)file.text("u8"), "u8 is not a text");
  EXPECT_USER_ERROR((void)file.texts("a.u8"), "a.u8 is not an array of texts");
  EXPECT_USER_ERROR((void)file.integers("a.f32"), "a.f32 is not an array of integers");
  EXPECT_USER_ERROR((void)file.numbers("a.text"), "a.text is not an array of numbers");
  EXPECT_USER_ERROR((void)file.integers("u8"), "u8 is not an array");
}

TEST(Gguf, IsKnownByItsFirstBytes) {
  const TemporaryDirectory dir;
  EXPECT_TRUE(is_gguf(dir.write("m", header(0, 0).bytes())));
  EXPECT_FALSE(is_gguf(dir.write("n", "GGU")));
  EXPECT_FALSE(is_gguf(dir.write("o", "GGML....")));
  EXPECT_FALSE(is_gguf(dir / "absent"));
  EXPECT_FALSE(is_gguf(dir.path()));
}

TEST(Gguf, TheWriterRefusesWhatTheReaderWould) {
  const TemporaryDirectory dir;
  const std::vector<float> two = {1, 2};
  const auto write = [&](const GgufMetadata& metadata, const std::vector<GgufTensorInfo>& tensors,
                         std::uint32_t version = 3) {
    write_gguf(
        dir / "m.gguf", metadata, tensors, [&](std::size_t) { return bytes_of(two); }, version);
  };
  EXPECT_THROW(write({}, {}, 1), InternalError);
  EXPECT_THROW(write({{"", 1}}, {}), InternalError);
  EXPECT_THROW(write({{"x", 1}, {"x", 2}}, {}), InternalError);
  EXPECT_THROW(write({{"x", GgufArray(std::monostate())}}, {}), InternalError);
  EXPECT_THROW(write({{"general.alignment", std::uint32_t{48}}}, {}), InternalError);
  EXPECT_THROW(write({{"general.alignment", 64}}, {}), InternalError);
  EXPECT_THROW(write({}, {{"x", GgmlType::F32, {3}}}), InternalError);
  EXPECT_THROW(write({}, {{"x", GgmlType::Q4_0, {16}}}), InternalError);
  EXPECT_THROW(write({}, {{"x", GgmlType::F32, {-2}}}), InternalError);
  EXPECT_THROW(write({}, {{"", GgmlType::F32, {2}}}), InternalError);
  EXPECT_THROW(write({}, {{std::string(65, 'x'), GgmlType::F32, {2}}}), InternalError);
  EXPECT_THROW(write({}, {{"x", GgmlType::F32, {1, 1, 1, 1, 2}}}), InternalError);
  EXPECT_THROW(write({}, {{"x", GgmlType::F32, {2}}, {"x", GgmlType::F32, {2}}}), InternalError);
  EXPECT_TRUE(dir.names().empty());
}

TEST(GgufRules, TheFileBeginsAsGgufDoes) {
  expect_refused(Raw(), "ends within its first four bytes");
  expect_refused(Raw().raw("GGML").number(std::uint32_t{3}), "does not begin with 'GGUF'");
  expect_refused(Raw().raw("GGUF"), "ends within the version");
  expect_refused(Raw().raw("GGUF").number(std::uint32_t{3}).number(std::uint32_t{0}),
                 "ends within the number of tensors");
  expect_refused(Raw().raw("GGUF").number(std::uint32_t{3}).number(std::uint64_t{0}),
                 "ends within the number of metadata values");
}

TEST(GgufRules, TheVersionIsTwoOrThreeAndLittleEndian) {
  expect_refused(header(0, 0, 1), "it has version 1");
  expect_refused(header(0, 0, 4), "it has version 4");
  expect_refused(header(0, 0, 0x03000000), "big-endian");
}

TEST(GgufRules, CountsFitTheFile) {
  expect_refused(header(0, UINT64_MAX), "18446744073709551615 metadata values do not fit");
  expect_refused(header(0, 1), "1 metadata values do not fit");
  expect_refused(header(UINT64_MAX, 0), "18446744073709551615 tensors do not fit");
  expect_refused(header(1, 0), "1 tensors do not fit");
}

TEST(GgufRules, KeysHaveALengthAndOccurOnce) {
  expect_refused(header(0, 1).number(std::uint64_t{65536}).raw(std::string(70000, 'x')),
                 "a metadata key has 65536 bytes, more than 65535");
  expect_refused(header(0, 1).number(std::uint64_t{40}).raw("short"), "ends within a metadata key");
  expect_refused(header(0, 1).text("").number(std::uint32_t{0}).raw("a"), "a metadata key is empty");
  expect_refused(header(0, 2).text("x").number(std::uint32_t{0}).raw("a").text("x").number(std::uint32_t{0}).raw("b"),
                 "the metadata key 'x' occurs twice");
}

TEST(GgufRules, ValuesAreOfAKnownTypeAndWithinTheFile) {
  expect_refused(header(0, 1).text("x").number(std::uint32_t{13}).raw("abc"), "'x' has the unknown type 13");
  expect_refused(header(0, 1).text("x").number(std::uint32_t{10}).raw("abc"), "ends within the value of 'x'");
  expect_refused(header(0, 1).text("x").number(std::uint32_t{7}).raw("\x02"), "is a bool of value 2");
  expect_refused(header(0, 1).text("x").number(std::uint32_t{8}).number(UINT64_MAX).raw("ab"),
                 "ends within the value of 'x'");
}

TEST(GgufRules, ArraysAreOfAKnownTypeAndWithinTheFile) {
  const auto array = [](std::uint32_t type, std::uint64_t n) {
    return header(0, 1).text("x").number(std::uint32_t{9}).number(type).number(n);
  };
  expect_refused(array(9, 1), "array of arrays");
  expect_refused(array(13, 1), "array of the unknown type 13");
  expect_refused(array(8, UINT64_MAX), "ends within the value of 'x', an array of 18446744073709551615");
  expect_refused(array(4, UINT64_MAX / 4 + 1), "an array of");
  expect_refused(array(5, 2).raw("abcdefg"), "an array of 2");
  expect_refused(array(8, 1).number(std::uint64_t{3}).raw("ab"), "ends within the value of 'x'");
  expect_refused(array(7, 2).raw(std::string("\x01\x05", 2)), "is a bool of value 5");
}

TEST(GgufRules, TheAlignmentIsAPowerOfTwo) {
  const auto alignment = [](std::uint32_t value) {
    return header(0, 1).text("general.alignment").number(std::uint32_t{4}).number(value);
  };
  expect_refused(alignment(0), "general.alignment is not a power of two");
  expect_refused(alignment(24), "general.alignment is not a power of two");
  expect_refused(header(0, 1).text("general.alignment").number(std::uint32_t{10}).number(std::uint64_t{32}),
                 "general.alignment is not a power of two of type u32");
}

TEST(GgufRules, TensorsHaveANameThatOccursOnce) {
  expect_refused(header(1, 0).tensor(std::string(65, 'n'), {1}, 0, 0), "the name of a tensor has 65 bytes");
  expect_refused(header(1, 0).tensor("", {1}, 0, 0).pad().raw("abcd"), "the name of a tensor is empty");
  expect_refused(header(2, 0).tensor("x", {1}, 0, 0).tensor("x", {1}, 0, 32).pad().raw(std::string(64, 'd')),
                 "two tensors are named 'x'");
  expect_refused(header(1, 0).number(std::uint64_t{40}).raw(std::string(20, 'n')), "ends within the name of a tensor");
}

TEST(GgufRules, ShapesAreSizesWhoseProductFits) {
  expect_refused(header(1, 0).tensor("x", {1, 1, 1, 1, 1}, 0, 0), "tensor 'x' has 5 dimensions, more than 4");
  expect_refused(header(1, 0).text("x").number(UINT32_MAX).raw(std::string(64, 'd')),
                 "tensor 'x' has 4294967295 dimensions");
  expect_refused(header(1, 0).tensor("x", {std::uint64_t{1} << 63}, 0, 0), "which is no size");
  expect_refused(header(1, 0).tensor("x", {std::uint64_t{1} << 40, std::uint64_t{1} << 40}, 0, 0),
                 "the size of tensor 'x' overflows");
  expect_refused(header(1, 0).tensor("x", {std::uint64_t{1} << 62}, 0, 0), "the size of tensor 'x' overflows");
  expect_refused(header(1, 0).tensor("x", {std::uint64_t{1} << 40, std::uint64_t{1} << 40, 0}, 0, 0),
                 "the size of tensor 'x' overflows");
  expect_refused(header(1, 0).text("x").number(std::uint32_t{2}).number(std::uint64_t{4}),
                 "1 tensors do not fit the file");
  expect_refused(header(1, 0).text("name").number(std::uint32_t{3}).number(std::uint64_t{4}),
                 "ends within the description of tensor 'name'");
}

TEST(GgufRules, TensorsAreOfAKnownTypeInWholeBlocks) {
  expect_refused(header(1, 0).tensor("x", {32}, 4, 0), "tensor 'x' has the unknown ggml type 4");
  expect_refused(header(1, 0).tensor("x", {32}, 1000, 0), "tensor 'x' has the unknown ggml type 1000");
  expect_refused(header(1, 0).tensor("x", {48, 2}, 2, 0), "not whole blocks of Q4_0, 32 elements each");
}

TEST(GgufRules, DataIsAlignedWithinTheFileAndDoesNotOverlap) {
  expect_refused(header(1, 0).tensor("x", {2}, 0, 8).pad().raw(std::string(64, 'd')), "not aligned to 32");
  expect_refused(header(1, 0).tensor("x", {2}, 0, 0).pad().raw("1234567"), "lies beyond the end of the file");
  expect_refused(header(1, 0).tensor("x", {2}, 0, 0), "lies beyond the end of the file");
  expect_refused(header(1, 0).tensor("x", {2}, 0, UINT64_MAX - 31).pad().raw(std::string(64, 'd')),
                 "lies beyond the end of the file");
  expect_refused(header(2, 0).tensor("x", {16}, 0, 0).tensor("y", {16}, 0, 32).pad().raw(std::string(96, 'd')),
                 "the data of tensor 'y' overlaps its neighbour's");
}

}  // namespace
}  // namespace nibble
