// `nibble recipes` as a user meets it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>

#include "tests/cli/program.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

bool has_line_with(const std::string& text, std::initializer_list<const char*> words) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    if (std::all_of(words.begin(), words.end(), [&](const char* w) { return line.find(w) != std::string::npos; })) {
      return true;
    }
    begin = end + 1;
  }
  return false;
}

TEST(RecipesCommand, ListNamesEveryFileWithItsFormats) {
  const Output out = run("recipes list");
  EXPECT_EQ(out.code, 0) << out.text;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(NIBBLE_SOURCE_DIR "/recipes")) {
    if (entry.path().extension() != ".toml") continue;
    const std::string name = entry.path().stem().string() + " ";
    EXPECT_TRUE(has_line_with(out.text, {name.c_str()})) << entry.path();
  }
  EXPECT_TRUE(has_line_with(out.text, {"quartet ", "MXFP4 x MXFP4", "Quartet: MXFP4 in all three products"}));
  EXPECT_EQ(out.text.find("not valid"), std::string::npos) << out.text;
}

TEST(RecipesCommand, ListGoesOnAfterABadFile) {
  const TemporaryDirectory folder;
  folder.write("bad.toml", "name = 3\n");
  folder.write("good.toml", "name = \"good\"\n");
  const Output out = run("recipes list", "NIBBLE_RECIPES=" + folder.path().string());
  EXPECT_TRUE(has_line_with(out.text, {"bad ", "not valid", "must be a string"})) << out.text;
  EXPECT_TRUE(has_line_with(out.text, {"good ", "BF16 x BF16"})) << out.text;
}

TEST(RecipesCommand, ShowPrintsEveryShippedRecipe) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(NIBBLE_SOURCE_DIR "/recipes")) {
    if (entry.path().extension() != ".toml") continue;
    const std::string name = entry.path().stem().string();
    const Output out = run("recipes show " + name);
    EXPECT_EQ(out.code, 0) << out.text;
    EXPECT_EQ(out.text.substr(0, name.size() + 2), name + ": ") << out.text;
    for (const char* operand : {"fprop.x", "fprop.w", "dgrad.dy", "dgrad.w", "wgrad.dy", "wgrad.x", "extra state"}) {
      EXPECT_NE(out.text.find(std::string("\n") + operand), std::string::npos) << name << ": " << operand;
    }
  }
}

TEST(RecipesCommand, ShowTellsBitsModulesStagesAndState) {
  const Output zhou = run("recipes show zhou2025");
  EXPECT_TRUE(has_line_with(zhou.text, {"fprop.x", "E2M1", "1x128", "4.25"})) << zhou.text;
  EXPECT_TRUE(has_line_with(zhou.text, {"layers.*.attention.*:"})) << zhou.text;
  EXPECT_TRUE(has_line_with(zhou.text, {"stage 1", "from 92 % of the steps"})) << zhou.text;
  const Output quartet = run("recipes show quartet");
  EXPECT_TRUE(has_line_with(quartet.text, {"fprop.x", "quest-floor", "trust mask", "5.25"})) << quartet.text;
  EXPECT_TRUE(has_line_with(quartet.text, {"trust masks", "one bit a value"})) << quartet.text;
  const Output nvfp4 = run("recipes show nvfp4");
  EXPECT_TRUE(has_line_with(nvfp4.text, {"dgrad.w", "fprop's again", "4.03"})) << nvfp4.text;
  EXPECT_TRUE(has_line_with(nvfp4.text, {"exempt last share", "15 %"})) << nvfp4.text;
}

TEST(RecipesCommand, DiffSaysWhatDiffersAndOnlyThat) {
  const Output out = run("recipes diff quartet2 quartet2-no46");
  EXPECT_EQ(out.code, 0);
  EXPECT_TRUE(has_line_with(out.text, {"fprop.x scale", "four-over-six by mse"})) << out.text;
  EXPECT_EQ(out.text.find("dgrad"), std::string::npos) << out.text;
  EXPECT_EQ(run("recipes diff bf16 bf16").text, "bf16 and bf16 say the same\n");
}

TEST(RecipesCommand, CheckSaysValidOrTheSentenceWithItsLine) {
  const TemporaryDirectory folder;
  const std::string good = folder.write("good.toml", "name = \"good\"\ntitle = \"A good one\"\n");
  const std::string bad = folder.write("bad.toml", "name = \"bad\"\n[fprop.x]\nelement = \"fp4\"\n");
  const Output yes = run("recipes check " + good);
  EXPECT_EQ(yes.code, 0);
  EXPECT_EQ(yes.text, good + " is valid: A good one\n");
  const Output no = run("recipes check " + bad);
  EXPECT_EQ(no.code, 2);
  EXPECT_EQ(no.text, "nibble: " + bad +
                         ":3: key 'fprop.x.element': 'fp4' is not one of f32, bf16, e2m1, int4, e3m0, e4m3, e5m2\n");
  EXPECT_EQ(run("recipes check nobody-knows").code, 2);
}

}  // namespace
}  // namespace nibble
