#include "nibble/io/safetensors_folder.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "nibble/io/json.h"
#include "nibble/numerics/fp16.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

const std::vector<float> kValues = {1, 2, 3, 4};

SafetensorsEntry floats(const std::string& name) { return {name, "F32", {4}, std::as_bytes(std::span(kValues))}; }

/// Writes a, b and c, 16 bytes each, in files of at most `most_bytes`.
void write_three(const TemporaryDirectory& dir, std::uint64_t most_bytes) {
  const std::vector<TensorToWrite> tensors = {{"a", 16}, {"b", 16}, {"c", 16}};
  const auto load = [&](std::size_t begin, std::size_t end) {
    std::vector<SafetensorsEntry> entries;
    for (; begin < end; ++begin) entries.push_back(floats(tensors[begin].name));
    return entries;
  };
  write_safetensors_folder(dir.path(), tensors, most_bytes, load, {{"format", "pt"}});
}

TEST(SafetensorsFolder, OneFileWhereItIsNotTooLarge) {
  const TemporaryDirectory dir;
  write_three(dir, 48);
  EXPECT_EQ(dir.names(), std::vector<std::string>{"model.safetensors"});
  EXPECT_EQ(SafetensorsFolder(dir.path()).names(), (std::vector<std::string>{"a", "b", "c"}));
}

TEST(SafetensorsFolder, FilesOfNoMoreBytesThanAskedAndTheirIndex) {
  const TemporaryDirectory dir;
  write_three(dir, 47);
  EXPECT_EQ(dir.names(),
            (std::vector<std::string>{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                      "model.safetensors.index.json"}));
  const nlohmann::json index = read_json(dir / kWeightsIndexFile);
  EXPECT_EQ(index["metadata"]["total_size"], 48);
  EXPECT_EQ(index["weight_map"]["b"], "model-00001-of-00002.safetensors");
  EXPECT_EQ(index["weight_map"]["c"], "model-00002-of-00002.safetensors");
  const SafetensorsFolder folder(dir.path());
  for (const char* name : {"a", "b", "c"}) {
    const OwnedTensor values(DType::F32, {4});
    folder.read_floats(name, values);
    EXPECT_EQ(std::memcmp(values.view().raw(), kValues.data(), 16), 0);
  }
}

TEST(SafetensorsFolder, ATensorThatIsTooLargeHasAFileOfItsOwn) {
  const TemporaryDirectory dir;
  write_three(dir, 1);
  EXPECT_EQ(dir.names().size(), 4u);
  EXPECT_EQ(SafetensorsFolder(dir.path()).names().size(), 3u);
}

TEST(SafetensorsFolder, TheOneFileCountsWhereThereIsAnIndexToo) {
  const TemporaryDirectory dir;
  write_three(dir, 1);
  write_safetensors(dir / kWeightsFile, {floats("only")});
  EXPECT_EQ(SafetensorsFolder(dir.path()).names(), std::vector<std::string>{"only"});
}

TEST(SafetensorsFolder, AFolderWithoutWeightsIsRefused) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(SafetensorsFolder(dir.path()), "holds no weights: neither model.safetensors nor");
}

TEST(SafetensorsFolder, SuggestsTheNameThatWasMeant) {
  const TemporaryDirectory dir;
  write_safetensors(dir / kWeightsFile, {floats("model.norm.weight")});
  const SafetensorsFolder folder(dir.path());
  EXPECT_USER_ERROR(folder.entry("model.norm.weigth"), "did you mean 'model.norm.weight'?");
}

/// An index over x.safetensors (a, b) and y.safetensors (c).
void expect_refused(const std::string& weight_map, const std::string& rule) {
  const TemporaryDirectory dir;
  write_safetensors(dir / "x.safetensors", {floats("a"), floats("b")});
  write_safetensors(dir / "y.safetensors", {floats("c")});
  dir.write(kWeightsIndexFile, weight_map);
  EXPECT_USER_ERROR(SafetensorsFolder(dir.path()), rule);
}
std::string index_of(const std::string& files) { return R"({"weight_map": {)" + files + "}}"; }

TEST(SafetensorsIndex, NamesAFileForEachTensor) {
  expect_refused("[]", "it has no weight_map");
  expect_refused("{}", "it has no weight_map");
  expect_refused(R"({"weight_map": 3})", "weight_map is not an object");
  expect_refused(index_of(""), "weight_map is not an object that names a tensor");
  expect_refused(index_of(R"("a": 3)"), "the file of tensor 'a' is not a string");
  expect_refused(R"({"weight_map": )", "malformed JSON");
  expect_refused(index_of(R"("a": "x.safetensors", "a": "y.safetensors")"), "'a' occurs twice");
}

TEST(SafetensorsIndex, LeadsNowhereElse) {
  for (const char* name : {"../x.safetensors", "/etc/passwd", "", ".", "..", "sub/x.safetensors", "..\\\\x.safetensors",
                           "x.safetensors\\u0000.bin"}) {
    expect_refused(index_of(fmt::format(R"("a": "{}")", name)), "not a name beside the index");
  }
}

TEST(SafetensorsIndex, AgreesWithItsFiles) {
  const std::string all = R"("a": "x.safetensors", "b": "x.safetensors", )";
  expect_refused(index_of(all + R"("c": "x.safetensors")"), "tensor 'c' is in x.safetensors, which has no such tensor");
  expect_refused(index_of(all + R"("c": "y.safetensors", "d": "y.safetensors")"), "tensor 'd' is in y.safetensors");
  expect_refused(index_of(R"("a": "x.safetensors", "c": "y.safetensors")"), "leaves out tensor 'b' of x.safetensors");
  expect_refused(index_of(all + R"("c": "z.safetensors")"), "z.safetensors");
}

TEST(SafetensorsIndex, NoTensorIsInTwoFiles) {
  const TemporaryDirectory dir;
  write_safetensors(dir / "x.safetensors", {floats("a"), floats("b")});
  write_safetensors(dir / "y.safetensors", {floats("b"), floats("c")});
  dir.write(kWeightsIndexFile, index_of(R"("a": "x.safetensors", "b": "x.safetensors", "c": "y.safetensors")"));
  EXPECT_USER_ERROR(SafetensorsFolder(dir.path()), "tensor 'b' is both in x.safetensors and in y.safetensors");
}

TEST(SafetensorsFloats, AreTheValuesOfEveryFloatType) {
  const TemporaryDirectory dir;
  const std::vector<float> wide = {1.5f, -0.0f, 1e-40f, 3.4e38f};
  const std::vector<std::uint16_t> brain = {0x3FC0, 0x8000, 0x0001, 0x7F7F};
  const std::vector<std::uint16_t> half = {fp16_encode(1.5f), 0x8000, 0x0001, 0x7BFF};
  const std::vector<std::int32_t> ints = {1, 2, 3, 4};
  const auto entry = [](const char* name, const auto& values) {
    return SafetensorsEntry{name, name, {4}, std::as_bytes(std::span(values))};
  };
  write_safetensors(dir / "t", {entry("F32", wide), entry("BF16", brain), entry("F16", half), entry("I32", ints)});
  const SafetensorsFile file(dir / "t");
  const OwnedTensor to(DType::F32, {4});
  const auto expect = [&](const char* name, std::vector<float> values) {
    file.read_floats(name, to);
    EXPECT_EQ(std::memcmp(to.view().raw(), values.data(), 16), 0) << name;
  };
  expect("F32", wide);
  expect("BF16", {1.5f, -0.0f, 0x1p-133f, 0x1.FEp127f});
  expect("F16", {1.5f, -0.0f, 0x1p-24f, 65504.0f});
  EXPECT_USER_ERROR(file.read_floats("I32", to), "is I32; weights are read from F32, BF16 and F16");
  const OwnedTensor other(DType::F32, {2, 2});
  EXPECT_USER_ERROR(file.read_floats("F32", other), "has the shape [4] where [2,2] is expected");
}

}  // namespace
}  // namespace nibble
