// Blocks of ggml's types against what the gguf package makes of them; scripts/make_gguf_fixtures.py made the fixture.
#include "nibble/io/ggml_blocks.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <random>

#include "tests/temporary_directory.h"

namespace nibble {
namespace {

const std::filesystem::path kScript = std::filesystem::path(NIBBLE_SOURCE_DIR) / "scripts/make_gguf_fixtures.py";

std::vector<float> floats_of(const GgufFile& file, const std::string& name) {
  const GgufTensor& tensor = file.tensor(name);
  OwnedTensor values(DType::F32, tensor.shape);
  read_gguf_floats(file, name, values);
  return {values.view().data<float>(), values.view().data<float>() + values.view().numel()};
}

bool same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

TEST(GgmlBlocks, RandomBytesDecodeAsTheGgufPackageDecodesThem) {
  const GgufFile file(std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/gguf/blocks.gguf");
  std::size_t types = 0;
  for (const GgmlTypeInfo& type : ggml_types()) {
    if (!ggml_is_decodable(type.type)) continue;
    ++types;
    const std::vector<float> got = floats_of(file, type.name);
    const std::vector<float> want = floats_of(file, std::string(type.name) + ".values");
    ASSERT_EQ(got.size(), want.size()) << type.name;
    std::size_t finite = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(same(got[i], want[i])) << type.name << " element " << i << ": " << got[i] << ", not " << want[i];
      finite += std::isfinite(got[i]) ? 1 : 0;
    }
    EXPECT_GT(finite, got.size() / 2) << type.name;
  }
  EXPECT_EQ(types, 15u);
}

/// Where Python has the gguf package (NIBBLE_GGUF_PYTHON names the interpreter), it reads what nibble wrote and decodes
/// the same values: every byte of a scale, and many random blocks.
TEST(GgmlBlocks, TheGgufPackageReadsAndDecodesTheSame) {
  const char* python = std::getenv("NIBBLE_GGUF_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "NIBBLE_GGUF_PYTHON names no Python with the gguf package";
  const TemporaryDirectory dir;
  std::mt19937_64 random(7);
  std::vector<GgufTensorInfo> tensors;
  std::vector<std::vector<std::byte>> data;
  for (const GgmlTypeInfo& type : ggml_types()) {
    if (!ggml_is_decodable(type.type)) continue;
    const std::int64_t blocks = 512;
    std::vector<std::byte> bytes(static_cast<std::size_t>(blocks * type.block_bytes));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    for (std::int64_t b = 0; b < 256; ++b) bytes[static_cast<std::size_t>(b * type.block_bytes)] = std::byte(b);
    std::vector<std::byte> values(static_cast<std::size_t>(blocks * type.block_size) * sizeof(float));
    decode_ggml(type.type, bytes, {reinterpret_cast<float*>(values.data()), values.size() / sizeof(float)});
    tensors.push_back({type.name, type.type, {8, blocks * type.block_size / 8}});
    data.push_back(std::move(bytes));
    tensors.push_back({std::string(type.name) + ".values", GgmlType::F32, tensors.back().shape});
    data.push_back(std::move(values));
  }
  for (const std::uint32_t version : {2u, 3u}) {
    write_gguf(
        dir / "m.gguf", {{"general.architecture", std::string("none")}}, tensors,
        [&](std::size_t i) { return std::span<const std::byte>(data[i]); }, version);
    const std::string command =
        fmt::format("'{}' '{}' check-blocks '{}'", python, kScript.string(), (dir / "m.gguf").string());
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
  }
}

TEST(GgmlBlocks, ABlockByHand) {
  // Q4_1: d = 0.5, m = -1; the first byte holds y[0] = 3 and y[16] = 12.
  std::vector<std::byte> block(20);
  block[1] = std::byte{0x38};
  block[3] = std::byte{0xBC};
  block[4] = std::byte{0xC3};
  std::vector<float> values(32);
  decode_ggml(GgmlType::Q4_1, block, values);
  EXPECT_EQ(values[0], 0.5f * 3 - 1);
  EXPECT_EQ(values[16], 0.5f * 12 - 1);
  EXPECT_EQ(values[1], -1.0f);
}

TEST(GgmlBlocks, OtherTypesAndShapesAreRefusedByName) {
  const TemporaryDirectory dir;
  const std::vector<std::byte> data(136);
  write_gguf(dir / "m.gguf", {},
             {{"old", GgmlType::IQ4_XS, {256}}, {"matrix", GgmlType::F16, {4, 17}}, {"scalar", GgmlType::F32, {}}},
             [&](std::size_t i) { return std::span(data).first(i == 2 ? 4 : 136); });
  const GgufFile file(dir / "m.gguf");
  const OwnedTensor wide(DType::F32, {256}), turned(DType::F32, {17, 4}), one(DType::F32, {1});
  EXPECT_USER_ERROR(read_gguf_floats(file, "old", wide), "tensor 'old' of");
  EXPECT_USER_ERROR(read_gguf_floats(file, "old", wide), "is IQ4_XS; weights are read from F32, F16, BF16, Q4_0");
  EXPECT_USER_ERROR(read_gguf_floats(file, "matrix", turned), "has the shape [4, 17] where [17, 4] is expected");
  EXPECT_NO_THROW(read_gguf_floats(file, "scalar", one));
}

}  // namespace
}  // namespace nibble
