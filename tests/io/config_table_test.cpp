#include "nibble/io/config_table.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

template <class F>
std::string refusal(const F& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "accepted";
}

ConfigTable parse(const std::string& text, const std::string& origin = "a.toml") {
  return ConfigTable::parse_text(text, origin);
}

TEST(ConfigTable, ArraysOfTablesAreReadInOrderAndBlamedByLine) {
  const ConfigTable root = parse("[[stage]]\nfrom = 1\n[stage.x]\nkind = \"a\"\n[[stage]]\nfrom = \"late\"\n");
  const std::vector<ConfigTable> stages = root.tables("stage");
  ASSERT_EQ(stages.size(), 2U);
  EXPECT_EQ(stages[0].integer("from", 0, 9), 1);
  EXPECT_EQ(stages[0].table("x").text("kind"), "a");
  EXPECT_EQ(refusal([&] { stages[1].integer("from", 0, 9); }),
            "a.toml:6: key 'stage[1].from': must be an integer, not a string");
}

TEST(ConfigTable, UnknownKeysOfAnArrayElementAreFound) {
  const ConfigTable root = parse("[[stage]]\nfrom = 1\n[[stage]]\nfrm = 2\n");
  const std::vector<ConfigTable> stages = root.tables("stage");
  for (const ConfigTable& stage : stages) stage.has("from");
  EXPECT_NO_THROW(stages[0].finish());
  EXPECT_EQ(refusal([&] { stages[1].finish(); }),
            "a.toml:4: key 'stage[1].frm': is not known here; did you mean 'from'? (known: from)");
}

TEST(ConfigTable, WhatIsNotAnArrayOfTablesIsRefusedAsOne) {
  EXPECT_TRUE(parse("").tables("stage").empty());
  EXPECT_TRUE(parse("stage = []\n").tables("stage").empty());
  EXPECT_EQ(refusal([] { parse("[stage]\nx = 1\n").tables("stage"); }),
            "a.toml:1: key 'stage': is an array of tables: write [[stage]]");
  EXPECT_EQ(refusal([] { parse("stage = [1]\n").tables("stage"); }),
            "a.toml:1: key 'stage': holds an integer, must hold tables");
}

TEST(ConfigTable, InheritingTakesOnlyWhatIsAbsent) {
  ConfigTable mine = parse("x = 1\n[merged]\na = { v = 1 }\n[whole]\np = 1\n");
  mine.inherit(parse("x = 2\ny = 3\n[merged]\na = { v = 2, w = 2 }\nb = { v = 2 }\n[whole]\nq = 2\n[[list]]\nk = 4\n"),
               {"merged"});
  EXPECT_EQ(mine.integer("x", 0, 9), 1);
  EXPECT_EQ(mine.integer("y", 0, 9), 3);
  EXPECT_EQ(mine.table("merged").table("a").integer("v", 0, 9), 1);
  EXPECT_FALSE(mine.table("merged").table("a").has("w"));
  EXPECT_EQ(mine.table("merged").table("b").integer("v", 0, 9), 2);
  EXPECT_FALSE(mine.table("whole").has("q"));
  ASSERT_EQ(mine.tables("list").size(), 1U);
}

TEST(ConfigTable, WhatWasInheritedIsBlamedOnItsOwnFileAndLine) {
  ConfigTable mine = parse("x = 1\n");
  mine.inherit(parse("\n\n[t]\nkey = 3\nn = { deep = 4 }\n", "base.toml"), {});
  EXPECT_EQ(refusal([&] { mine.table("t").text("key"); }),
            "base.toml:4: key 't.key': must be a string, not an integer");
  EXPECT_EQ(refusal([&] { mine.table("t").table("n").text("deep"); }),
            "base.toml:5: key 't.n.deep': must be a string, not an integer");
  EXPECT_EQ(refusal([&] { mine.text("x"); }), "a.toml:1: key 'x': must be a string, not an integer");
}

TEST(ConfigTable, AMissingKeyIsBlamedOnTheNearestTableAroundIt) {
  const ConfigTable root = parse("\n[t]\nx = 1\n");
  EXPECT_EQ(refusal([&] { root.table("t").table("u").text("key"); }), "a.toml:2: key 't.u.key': is missing");
}

TEST(ConfigTable, TextOfAMergedTableParsesToTheSame) {
  ConfigTable mine = parse("s = \"a\\\"b\"\n[[l]]\nx = 0.1\n[[l]]\nx = 1e-9\n[l.t]\ny = true\n");
  mine.inherit(parse("[t]\nu = { v = [1, 2], w = \"x\" }\n"), {});
  const std::string text = mine.to_toml();
  const ConfigTable again = parse(text);
  EXPECT_EQ(again.to_toml(), text);
  EXPECT_EQ(again.text("s"), "a\"b");
  EXPECT_EQ(again.tables("l")[1].number("x", 0, 0, 1), 1e-9);
  EXPECT_TRUE(again.tables("l")[1].table("t").boolean("y", false));
  EXPECT_EQ(again.table("t").table("u").text("w"), "x");
}

TEST(ConfigTable, FractionsAreNumbersOrTwoNumbersInText) {
  const ConfigTable t = parse("a = 6\nb = \"96/17\"\nc = \"6/0.988125\"\nd = \"six\"\ne = \"1/0\"\nf = \"96/1\"\n");
  EXPECT_EQ(t.fraction("a", 0, 0, 10), 6.0);
  EXPECT_EQ(t.fraction("b", 0, 0, 10), 96.0 / 17.0);
  EXPECT_EQ(t.fraction("c", 0, 0, 10), 6.0 / 0.988125);
  EXPECT_EQ(t.fraction("none", 2.5, 0, 10), 2.5);
  for (const char* key : {"d", "e"}) {
    EXPECT_NE(refusal([&] { t.fraction(key, 0, 0, 10); }).find("a fraction such as \"96/17\""), std::string::npos);
  }
  EXPECT_EQ(refusal([&] { t.fraction("f", 0, 0, 10); }), "a.toml:6: key 'f': is 96/1, must be 0 to 10");
}

TEST(ConfigTable, ALongKeyIsRefusedBeforeItTakesTheWholeStack) {
  std::string key;
  for (int i = 0; i < 1'000'000; ++i) key += "a.";
  EXPECT_EQ(refusal([&] { parse("x = 1\n" + key + "a = 1\n"); }), "a.toml:2: a key has more than 8 parts");
  EXPECT_EQ(refusal([&] { parse("[" + key + "a]\n"); }), "a.toml:1: a key has more than 8 parts");
  EXPECT_EQ(refusal([&] { parse("x = { \"a\" . 'b' ." + key + "a = 1 }\n"); }),
            "a.toml:1: a key has more than 8 parts");
  // Dots that are in no key.
  const std::string dots = "# " + key + "\nx = \"\\\"" + key + "\"\ny = '" + key + "'\nz = \"\"\"" + key + "\n\"" +
                           key + "\"\"\"\"\nu = '''" + key +
                           "''''\na.b.c.d.e.f.g.h = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5]";
  EXPECT_EQ(refusal([&] { parse(dots); }), "accepted");
}

TEST(ConfigTable, TextThatTheParserHoldsForImpossibleIsRefused) {
  for (const char* text : {"[ = ]", "[[ = 1", "[.a]", "a = { , }", "a = 1 \u00E9", "\u00E9 = 1"}) {
    EXPECT_TRUE(refusal([&] { parse(text); }).starts_with("a.toml:")) << text;
  }
  EXPECT_EQ(parse("a = \"\"\"\\\n  \u00E9\"\"\"").text("a"), "\u00E9");
}

TEST(ConfigTable, KeysMayHoldDotsAndBrackets) {
  const ConfigTable t = parse("[s]\n\"a.b\" = 1\n\"c[0]\" = 2\n").table("s");
  EXPECT_EQ(t.keys(), (std::vector<std::string>{"a.b", "c[0]"}));
  EXPECT_EQ(t.integer("a.b", 0, 9), 1);
  EXPECT_EQ(t.integer("c[0]", 0, 9), 2);
}

TEST(ConfigTable, StringsOfSeveralLinesAreWrittenAsTheyAre) {
  for (const char* text : {"\\nfirst", "a '''\\n b", "c\\n'", "plain", "d\\te"}) {
    const ConfigTable t = parse("a = \"" + std::string(text) + "\"\n");
    EXPECT_EQ(parse(t.to_toml()).text("a"), t.text("a")) << t.to_toml();
  }
}

TEST(ConfigTable, AnOverrideMustBeText) {
  ConfigTable t = parse("a = 1\n");
  EXPECT_EQ(refusal([&] { t.set("b=\xFF"); }),
            "--set b: the value is neither TOML nor a text without control characters");
  EXPECT_NE(refusal([&] { t.set("a..b=1"); }).find("the key must be up to 8 words"), std::string::npos);
  t.set("path=/data/a.b.c.d.e.f.g.h.i.j");
  EXPECT_EQ(t.text("path"), "/data/a.b.c.d.e.f.g.h.i.j");
  t.set("quote=say \"x\\y\"");
  EXPECT_EQ(t.text("quote"), "say \"x\\y\"");
}

TEST(ConfigTable, AnErasedKeyIsGone) {
  ConfigTable t = parse("a = 1\n[s]\nb = 2\nc = 3\n");
  t.erase("a");
  t.table("s").erase("b");
  t.erase("absent");
  EXPECT_FALSE(t.has("a"));
  EXPECT_FALSE(t.table("s").has("b"));
  EXPECT_TRUE(t.table("s").has("c"));
}

}  // namespace
}  // namespace nibble
