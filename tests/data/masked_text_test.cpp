#include "nibble/data/masked_text.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

#include "tests/data/english.h"

namespace nibble {
namespace {

const Tokenizer& smollm() {
  static const Tokenizer tokenizer = Tokenizer::load(std::string(NIBBLE_SOURCE_DIR) + "/tests/data/fixtures/smollm");
  return tokenizer;
}

MaskedTokens prompt_and_completion(const Tokenizer& tokenizer, const std::string& prompt,
                                   const std::string& completion) {
  MaskedTokens out;
  encode_masked(tokenizer, std::vector<MaskedPart>{{.text = prompt}, {.text = completion, .counted = true}}, out);
  EXPECT_EQ(out.ids.size(), out.counted.size());
  return out;
}

std::vector<std::int32_t> ids_where(const MaskedTokens& tokens, bool counted) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < tokens.ids.size(); ++i) {
    if ((tokens.counted[i] != 0) == counted) ids.push_back(tokens.ids[i]);
  }
  return ids;
}

TEST(MaskedText, ACleanBorderGivesTheIdsOfTheWholeText) {
  for (const Tokenizer* tokenizer : {&small_tokenizer(), &smollm()}) {
    const MaskedTokens tokens = prompt_and_completion(*tokenizer, "Call me", " Ishmael. Some years ago");
    EXPECT_EQ(tokens.ids, tokenizer->encode("Call me Ishmael. Some years ago"));
    EXPECT_EQ(ids_where(tokens, false), tokenizer->encode("Call me"));
    EXPECT_EQ(tokens.cut_borders, 0);
    EXPECT_TRUE(std::is_sorted(tokens.counted.begin(), tokens.counted.end()));
  }
}

TEST(MaskedText, ATokenThatWouldSpanTheBorderIsCut) {
  // "ing" is one token of the small vocabulary, so "begin" + "ning" and "beginn" + "ing" differ.
  const MaskedTokens tokens = prompt_and_completion(smollm(), "Alice was begi", "nning");
  const std::vector<std::int32_t> whole = smollm().encode("Alice was beginning");
  ASSERT_NE(tokens.ids, whole);
  EXPECT_EQ(tokens.cut_borders, 1);
  EXPECT_EQ(ids_where(tokens, false), smollm().encode("Alice was begi"));
  EXPECT_EQ(ids_where(tokens, true), smollm().encode("nning"));
}

TEST(MaskedText, NeighboursOfOneKindAreOneText) {
  MaskedTokens parts, whole;
  encode_masked(smollm(),
                std::vector<MaskedPart>{{.text = "Alice was be"},
                                        {.text = "ginning"},
                                        {.text = " to get ve", .counted = true},
                                        {.text = "", .counted = true},
                                        {.text = "ry tired", .counted = true}},
                parts);
  encode_masked(
      smollm(),
      std::vector<MaskedPart>{{.text = "Alice was beginning"}, {.text = " to get very tired", .counted = true}}, whole);
  EXPECT_EQ(parts.ids, whole.ids);
  EXPECT_EQ(parts.counted, whole.counted);
}

TEST(MaskedText, ATokenStandsBetweenTextsAndIsNeverPartOfThem) {
  const std::int32_t end = smollm().find_piece("<|im_end|>");
  ASSERT_GE(end, 0);
  for (const bool spelled : {false, true}) {
    MaskedTokens tokens;
    encode_masked(
        smollm(),
        std::vector<MaskedPart>{
            {.text = "who"}, {.text = "<|im_end|>", .token = end, .spelled = spelled, .counted = true}, {.text = "me"}},
        tokens);
    std::vector<std::int32_t> expected = smollm().encode("who");
    expected.push_back(end);
    for (const std::int32_t id : smollm().encode("me")) expected.push_back(id);
    EXPECT_EQ(tokens.ids, expected);
    EXPECT_EQ(std::count(tokens.counted.begin(), tokens.counted.end(), 1), 1);
  }
}

RC_GTEST_PROP(MaskedText, TheMaskedIdsAreThePromptsAndTheCountedOnesSpellTheCompletion, ()) {
  const std::string text = english_documents(8)[*rc::gen::inRange<std::size_t>(0, 8)];
  const std::size_t cut = *rc::gen::inRange<std::size_t>(0, text.size());
  const std::string prompt = text.substr(0, cut), completion = text.substr(cut);
  const MaskedTokens tokens = prompt_and_completion(smollm(), prompt, completion);
  RC_ASSERT(ids_where(tokens, false) == smollm().encode(prompt));
  RC_ASSERT(smollm().decode(ids_where(tokens, true)) == completion);
  RC_ASSERT(std::is_sorted(tokens.counted.begin(), tokens.counted.end()));
  RC_ASSERT((tokens.cut_borders == 0) == (tokens.ids == smollm().encode(text)));
}

RC_GTEST_PROP(MaskedText, SentencePiecePromptsAreEncodedAsTheyAreAlone, ()) {
  const std::string text = english_documents(8)[*rc::gen::inRange<std::size_t>(0, 8)];
  const std::size_t cut = *rc::gen::inRange<std::size_t>(0, text.size());
  const MaskedTokens tokens = prompt_and_completion(small_tokenizer(), text.substr(0, cut), text.substr(cut));
  RC_ASSERT(ids_where(tokens, false) == small_tokenizer().encode(text.substr(0, cut)));
  // Encoded by itself a completion begins with the blank that SentencePiece puts before every text.
  if (tokens.cut_borders == 0) RC_ASSERT(small_tokenizer().decode(tokens.ids) == text);
}

}  // namespace
}  // namespace nibble
