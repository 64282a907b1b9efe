#include "nibble/io/safetensors_parts.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "nibble/io/safetensors_folder.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::vector<float> counted(std::int64_t n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

/// Rows [begin, end) of a matrix [rows, columns] whose elements are numbered.
struct Numbered {
  Numbered(std::int64_t n, std::int64_t k) : rows(n), columns(k), values(counted(n * k)) {}
  SafetensorsRows part(const std::string& name, std::int64_t begin, std::int64_t end) const {
    const Tensor all = Tensor::of(values.data(), {rows, columns});
    return {safetensors_entry(name, all.row_range(begin, end)), begin, rows};
  }
  std::int64_t rows, columns;
  std::vector<float> values;
};

fs::path part_path(const TemporaryDirectory& dir, int rank, int ranks) {
  return dir / safetensors_part_name("model", rank, ranks);
}

TEST(SafetensorsParts, RowsAreFoundWhereverTheyLie) {
  std::mt19937 rng(7);
  const Numbered m(37, 3);
  const std::vector<float> vector = counted(5);
  for (int round = 0; round < 50; ++round) {
    SCOPED_TRACE(round);
    const TemporaryDirectory dir;
    const int ranks = 2 + static_cast<int>(rng() % 4);
    std::vector<std::int64_t> borders = {0, m.rows};
    for (int i = 1; i < ranks; ++i) borders.push_back(static_cast<std::int64_t>(rng() % 38));
    std::sort(borders.begin(), borders.end());
    for (int r = 0; r < ranks; ++r) {
      std::vector<SafetensorsRows> tensors;
      const auto i = static_cast<std::size_t>(r);
      if (borders[i] < borders[i + 1]) tensors.push_back(m.part("m", borders[i], borders[i + 1]));
      if (r == 0) tensors.push_back({safetensors_entry("v", Tensor::of(vector.data(), {5})), 0, 5});
      write_safetensors_part(part_path(dir, r, ranks), tensors, "x");
    }
    const SafetensorsParts parts(dir.path(), "model");
    EXPECT_EQ(parts.names(), (std::vector<std::string>{"m", "v"}));
    EXPECT_EQ(parts.shape("m"), (std::vector<std::int64_t>{37, 3}));
    const auto begin = static_cast<std::int64_t>(rng() % 38);
    const std::int64_t end = begin + static_cast<std::int64_t>(rng() % static_cast<unsigned>(38 - begin));
    std::vector<float> got(static_cast<std::size_t>(3 * (end - begin)));
    parts.read_rows("m", begin, Tensor::of(got.data(), {end - begin, 3}));
    EXPECT_TRUE(std::equal(got.begin(), got.end(), m.values.begin() + 3 * begin));
    std::vector<float> floats(got.size());
    parts.read_float_rows("m", begin, Tensor::of(floats.data(), {end - begin, 3}));
    EXPECT_EQ(floats, got);
    std::vector<float> all(m.values.size());
    const SafetensorsFolder folder(dir.path());
    folder.read_floats("m", Tensor::of(all.data(), {37, 3}));
    EXPECT_EQ(all, m.values);
    std::vector<float> whole(5);
    folder.read_floats("v", Tensor::of(whole.data(), {5}));
    EXPECT_EQ(whole, vector);
    EXPECT_EQ(folder.bytes_as(DType::F32, "v").size(), 20u);
    EXPECT_USER_ERROR(parts.read("m", Tensor::of(all.data(), {36, 3})), "is F32 [37,3] where");
    EXPECT_USER_ERROR(parts.read_rows("m", 1, Tensor::of(all.data(), {37, 3})), "is F32 [37,3] where");
    EXPECT_USER_ERROR(parts.read("w", Tensor::of(all.data(), {36, 3})), "'w'");
  }
}

TEST(SafetensorsParts, OfOneRankAreAPlainFileThatCountsFirst) {
  const TemporaryDirectory dir;
  const Numbered m(4, 2);
  EXPECT_FALSE(SafetensorsParts::exist(dir.path(), "model"));
  write_safetensors(dir / "model.safetensors", {m.part("m", 0, 4).rows});
  write_safetensors_part(part_path(dir, 0, 2), {m.part("n", 0, 4)}, "x");
  EXPECT_TRUE(SafetensorsParts::exist(dir.path(), "model"));
  EXPECT_EQ(SafetensorsParts(dir.path(), "model").names(), std::vector<std::string>{"m"});
}

TEST(SafetensorsParts, ThatDoNotMakeAWholeAreRefused) {
  const Numbered m(8, 2);
  const auto refused = [&](std::vector<SafetensorsRows> first, std::vector<SafetensorsRows> second,
                           const std::string& sentence, const std::string& of_second = "x") {
    const TemporaryDirectory dir;
    write_safetensors_part(part_path(dir, 0, 2), first, "x");
    write_safetensors_part(part_path(dir, 1, 2), second, of_second);
    EXPECT_USER_ERROR(SafetensorsParts(dir.path(), "model"), sentence);
  };
  refused({m.part("m", 0, 4)}, {m.part("m", 5, 8)}, "rows 4 to 4 of tensor 'm' are in none of the 2 parts of 'model'");
  refused({m.part("m", 0, 4)}, {m.part("m", 4, 7)}, "rows 7 to 7 of tensor 'm'");
  refused({m.part("m", 0, 5)}, {m.part("m", 4, 8)},
          "row 4 of tensor 'm' is both in model.rank-00000-of-00002.safetensors and in model.rank-00001");
  refused({m.part("m", 0, 8)}, {m.part("m", 0, 8)}, "row 0 of tensor 'm' is both in");
  refused({m.part("m", 0, 4)}, {Numbered(9, 2).part("m", 4, 9)}, "tensor 'm' is F32 [9,2] in");
  refused({m.part("m", 0, 4)}, {m.part("m", 4, 8)}, "they are of different jobs or steps", "y");

  const TemporaryDirectory dir;
  write_safetensors_part(part_path(dir, 0, 2), {m.part("m", 0, 4)}, "x");
  EXPECT_USER_ERROR(SafetensorsParts(dir.path(), "model"),
                    "model.rank-00001-of-00002.safetensors' is missing, one of 2 parts of 'model'");
  write_safetensors(part_path(dir, 1, 2), {m.part("m", 4, 8).rows});
  EXPECT_USER_ERROR(SafetensorsParts(dir.path(), "model"), "its metadata lacks rows or part_of");
  for (const auto& [rows, rule] : {std::pair{R"({"m":[4,6]})", "tensor 'm' has 4 rows from row 4 of 6 on"},
                                   {R"({"m":[-1,8]})", "the rows of tensor 'm' are [-1,8]"},
                                   {R"({"m":[1e30,8]})", "the rows of tensor 'm' are"},
                                   {R"({"n":[0,8]})", "rows names tensor 'n', which it does not hold"},
                                   {"[]", "rows is not an object"},
                                   {"{", "rows of"}}) {
    fs::remove(part_path(dir, 1, 2));
    write_safetensors(part_path(dir, 1, 2), {m.part("m", 4, 8).rows}, {{"part_of", "x"}, {"rows", rows}});
    EXPECT_USER_ERROR(SafetensorsParts(dir.path(), "model"), rule);
  }
  write_safetensors_part(part_path(dir, 0, 3), {m.part("m", 0, 4)}, "x");
  EXPECT_USER_ERROR(SafetensorsParts(dir.path(), "model"), "that 2 ranks wrote and parts that 3 wrote");
}

}  // namespace
}  // namespace nibble
