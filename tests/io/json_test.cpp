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

TEST(ParseJson, RefusesWhatWouldTakeTheWholeStack) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(parse_json(nested(kMaxJsonDepth), "here").dump(), nested(kMaxJsonDepth));
  EXPECT_USER_ERROR(parse_json(nested(1'000'000), "here"), "here: the JSON has more than 512 levels");
  EXPECT_NO_THROW(parse_json("[\"" + std::string(1000, '[') + "\\\"" + std::string(1000, '{') + "\"]", "text"));
}

TEST(ParseJson, RefusesANumberThatNoDoubleHolds) {
  EXPECT_USER_ERROR(parse_json(R"({"a": 1e999})", "here"), "here: the JSON holds a number that is too large");
}

TEST(IntegerAt, TakesIntegersAlone) {
  const auto value = parse_json(
      R"({"a": -3, "b": 9223372036854775807, "c": 9223372036854775808, "d": 1e300, "e": 2.0, "f": "1"})", "here");
  EXPECT_EQ(integer_at(value, "a", "here"), -3);
  EXPECT_EQ(integer_at(value, "b", "here"), INT64_MAX);
  for (const char* key : {"c", "d", "e", "f"}) EXPECT_USER_ERROR(integer_at(value, key, "here"), "must be an integer");
  EXPECT_USER_ERROR(integer_at(value, "g", "here"), "here: 'g' is missing");
  EXPECT_USER_ERROR(integer_at(value["a"], "g", "here"), "here: 'g' is missing");
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
