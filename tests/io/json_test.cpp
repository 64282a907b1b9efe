#include "nibble/io/json.h"

#include <nlohmann/json.hpp>

#include "tests/temporary_directory.h"

namespace nibble {
namespace {

TEST(ParseJson, ReadsNestedValues) {
  const auto value = parse_json(R"({"a": {"x": 1}, "b": [{"x": 2}, {"x": 3}]})", "here");
  EXPECT_EQ(value["a"]["x"], 1);
  EXPECT_EQ(value["b"][1]["x"], 3);
}

TEST(ParseJson, NamesThePlaceOfMalformedText) {
  EXPECT_USER_ERROR(parse_json(R"({"a": 1,})", "config.json"), "config.json: malformed JSON at byte 9");
  EXPECT_USER_ERROR(parse_json("", "empty"), "empty: malformed JSON");
  EXPECT_USER_ERROR(parse_json("{} x", "tail"), "tail: malformed JSON");
}

TEST(ParseJson, RefusesAKeyThatOccursTwiceInOneObject) {
  EXPECT_USER_ERROR(parse_json(R"({"a": 1, "b": 2, "a": 3})", "here"), "the key 'a' occurs twice");
  EXPECT_USER_ERROR(parse_json(R"({"o": [{"k": 1}, {"k": 1, "k": 2}]})", "here"), "the key 'k' occurs twice");
}

TEST(JsonFile, RoundTrips) {
  const TemporaryDirectory dir;
  const nlohmann::json value = {{"step", 12}, {"loss", 2.5}, {"name", "bf16"}};
  write_json_atomic(dir / "state.json", value);
  EXPECT_EQ(read_json(dir / "state.json"), value);
  EXPECT_TRUE(read_file(dir / "state.json").ends_with("}\n"));
}

TEST(JsonFile, NamesTheFileInErrors) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(read_json(dir.write("bad.json", "[1,")), "bad.json: malformed JSON");
  EXPECT_USER_ERROR(read_json(dir / "none.json"), "none.json': No such file");
}

}  // namespace
}  // namespace nibble
