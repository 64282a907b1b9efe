// Expected values are those of Python 3.11 and of the harness's preprocessing functions on the same texts.
#include "nibble/eval/text_rules.h"

#include <gtest/gtest.h>

#include "tests/temporary_directory.h"

namespace nibble {
namespace {

TEST(TextRules, StripTakesUnicodeWhiteSpaceAtBothEnds) {
  EXPECT_EQ(apply_text_rule(TextRule::Strip, "\u00A0\t a b \u2003\n"), "a b");
  EXPECT_EQ(apply_text_rule(TextRule::StripLeft, "\n a "), "a ");
  EXPECT_EQ(apply_text_rule(TextRule::StripRight, " a\x1F\u3000"), " a");
  EXPECT_EQ(apply_text_rule(TextRule::Strip, "\u200B"), "\u200B") << "a zero-width space is no white space";
  EXPECT_EQ(trailing_space_bytes("ab \u00A0\n"), 4u);
  EXPECT_EQ(trailing_space_bytes("  "), 2u);
  EXPECT_EQ(trailing_space_bytes("\xA0"), 0u) << "a byte that is no UTF-8";
}

TEST(TextRules, CapitalizeLowersEverythingButTheFirstCharacter) {
  EXPECT_EQ(apply_text_rule(TextRule::Capitalize, "he tells McCoy \"GO\""), "He tells mccoy \"go\"");
  EXPECT_EQ(apply_text_rule(TextRule::Capitalize, "\u00E9tude \u00C9TUDE"), "\u00C9tude \u00E9tude");
  EXPECT_EQ(apply_text_rule(TextRule::Capitalize, "\u0436\u0416 \U00010400"), "\u0416\u0436 \U00010428");
  EXPECT_EQ(apply_text_rule(TextRule::Capitalize, ""), "");
  EXPECT_EQ(apply_text_rule(TextRule::LowerFirst, "\u00C9tude A"), "\u00E9tude A");
  EXPECT_EQ(apply_text_rule(TextRule::DropLast, "sat down."), "sat down");
  EXPECT_EQ(apply_text_rule(TextRule::DropLast, "caf\u00E9"), "caf");
}

TEST(TextRules, TheLastWordIsWhatFollowsTheLastSpace) {
  EXPECT_EQ(apply_text_rule(TextRule::LastWord, "a b\nc d"), "d");
  EXPECT_EQ(apply_text_rule(TextRule::OtherWords, "a b\nc d"), "a b\nc");
  EXPECT_EQ(apply_text_rule(TextRule::LastWord, "alone"), "alone");
  EXPECT_EQ(apply_text_rule(TextRule::OtherWords, "alone"), "");
  EXPECT_EQ(apply_text_rule(TextRule::LastWord, "a "), "");
}

TEST(TextRules, AClozeSentenceIsCutAtItsBlank) {
  EXPECT_EQ(apply_text_rule(TextRule::BeforeBlank, "so _ won the _"), "so ");
  EXPECT_EQ(apply_text_rule(TextRule::AfterBlank, "so _ won the _"), " won the _");
  EXPECT_USER_ERROR(apply_text_rule(TextRule::AfterBlank, "no blank"), "has no blank '_'");
}

TEST(TextRules, HellaSwagsCleanUp) {
  EXPECT_EQ(apply_text_rule(TextRule::HellaSwag, " How to fly [title] Run [step] fast.  [substeps] Jump "),
            "How to fly. Run fast.  Jump");
  EXPECT_EQ(apply_text_rule(TextRule::HellaSwag, "a [b\nc] [d] e"), "a [b\nc] e");
  EXPECT_EQ(apply_text_rule(TextRule::HellaSwag, "a[b[c]d]"), "ad]");
}

TEST(TextRules, TagsThatDoNotCloseTakeLinearTime) {
  const std::string open(1 << 22, '[');  // 2^43 steps would be hours
  EXPECT_EQ(apply_text_rule(TextRule::HellaSwag, open), open);
  EXPECT_EQ(apply_text_rule(TextRule::HellaSwag, open + "\n[x]y"), open + "\ny");
}

TEST(TextRules, WikiTextsDetokeniser) {
  EXPECT_EQ(
      apply_text_rule(TextRule::WikiText,
                      " = Robert Boulter = \n \n He had a guest @-@ starring role ( in 2 @,@ 000 plays ) . \" Craig \" "
                      "was Teddy 's , at 5 @.@ 3 \xC2\xB0 C ; boys ' N day : yes \n"),
      " = Robert Boulter =\n\nHe had a guest-starring role (in 2,000 plays). \"Craig\" was Teddy's, at 5.3\xC2\xB0"
      "C; boys' 1 day: yes\n");
  EXPECT_EQ(apply_text_rule(TextRule::WikiText, "= = = A = = =\n( open [ x ] { y }"), "=== A ===\n( open [x] {y}");
  EXPECT_EQ(apply_text_rule(TextRule::WikiText, "' a ' b ' c"), "'a' b ' c");
  EXPECT_EQ(apply_text_rule(TextRule::WikiText, "x/' 5/y /' 5 /"), "x/'[0-9]/y /' 5 /");
}

TEST(TextRules, CountsAreThoseOfLenAndSplit) {
  EXPECT_EQ(count_characters("caf\u00E9 \U0001F600"), 6);
  EXPECT_EQ(count_characters("\xFF\xFE"), 2);
  EXPECT_EQ(count_characters("\xED\xA0\x80"), 3) << "half of a surrogate pair is no character";
  EXPECT_EQ(count_words(""), 1);
  EXPECT_EQ(count_words(" = a = \n b "), 6) << "an empty word before and after";
  EXPECT_EQ(count_words("a\u00A0b"), 2);
}

TEST(TextRules, AnUnknownRuleGetsTheNearestName) {
  EXPECT_EQ(text_rule("drop_last", "t"), TextRule::DropLast);
  EXPECT_USER_ERROR(text_rule("capitalise", "t.toml: key context"), "did you mean 'capitalize'");
}

}  // namespace
}  // namespace nibble
