// The parts of a tokenizer.json one by one, where the fixtures of whole tokenizers do not reach.
#include "nibble/data/bpe/added_tokens.h"
#include "nibble/data/bpe/decoder.h"
#include "nibble/data/bpe/model.h"
#include "nibble/data/bpe/normalizer.h"
#include "nibble/data/bpe/pretokenizer.h"
#include "nibble/data/bpe/word_patterns.h"
#include "nibble/data/utf8.h"
#include "tests/temporary_directory.h"

namespace nibble::bpe {
namespace {

using Words = std::vector<std::string>;

Words words(std::vector<PretokenizerStep> steps, std::string_view text) {
  const Pretokenizer pretokenizer(std::move(steps));
  Words result;
  Pretokenizer::Session(pretokenizer).split(text, true, [&](std::string_view word) { result.emplace_back(word); });
  return result;
}

Words split(const char* pattern, Delimiter behavior, std::string_view text, bool invert = false) {
  std::vector<PretokenizerStep> steps;
  steps.emplace_back(SplitStep{Regex::pattern(pattern, "test"), behavior, invert});
  return words(std::move(steps), text);
}

TEST(Pretokenizer, DoesWithDelimitersWhatTheirBehaviourSays) {
  // The documentation of tokenizers.pre_tokenizers.Split cuts this text at "-".
  const std::string_view text = "the-final--countdown";
  EXPECT_EQ(split("-", Delimiter::Removed, text), (Words{"the", "final", "countdown"}));
  EXPECT_EQ(split("-", Delimiter::Isolated, text), (Words{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(split("-", Delimiter::MergedWithPrevious, text), (Words{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(split("-", Delimiter::MergedWithNext, text), (Words{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(split("-", Delimiter::Contiguous, text), (Words{"the", "-", "final", "--", "countdown"}));
}

TEST(Pretokenizer, TakesMatchesForTheTextWhereInverted) {
  EXPECT_EQ(split("\\w+", Delimiter::Removed, "one, two", true), (Words{"one", "two"}));
  EXPECT_EQ(split("\\w+", Delimiter::MergedWithPrevious, "one, two", true), (Words{"one, ", "two"}));
}

TEST(Pretokenizer, CutsAtEmptyMatches) {
  EXPECT_EQ(split("(?=[A-Z])", Delimiter::Isolated, "camelCaseWord"), (Words{"camel", "Case", "Word"}));
  EXPECT_EQ(split("x*", Delimiter::Isolated, "\xC3\xA9xa"), (Words{"\xC3\xA9", "x", "a"}));
}

TEST(Pretokenizer, SurvivesLongRuns) {
  const std::string blanks(3'000'000, ' ');
  EXPECT_EQ(split(kGpt2Pattern, Delimiter::Isolated, blanks + "x").size(), 2u);
  EXPECT_EQ(split("(?:a|b)+", Delimiter::Isolated, std::string(1'000'000, 'a')).size(), 1u);
}

TEST(Regex, SpaceIsUnicodesWhiteSpace) {
  const Words parts = split("\\s", Delimiter::Removed,
                            "a\xC2\x85"
                            "b\xE1\xA0\x8E"
                            "c\xE3\x80\x80"
                            "d\x1C"
                            "e");
  EXPECT_EQ(parts, (Words{"a",
                          "b\xE1\xA0\x8E"
                          "c",
                          "d\x1C"
                          "e"}));  // neither U+180E nor U+001C
}

TEST(Regex, TranslatesOnigurumasSyntax) {
  EXPECT_EQ(to_pcre2("\\p{Lu}\\p{^L}\\P{N}", "test"), "\\p{Lu}\\p{^L}\\P{N}");
  EXPECT_EQ(to_pcre2("[\\p{Han}\\d]\\u4e00\\v", "test"), "[\\p{sc:Han}\\p{Nd}]\\x{4e00}\\x0B");
  EXPECT_EQ(to_pcre2("(?i:'s)|a{1,3}|\\.\\[[^a-z]", "test"), "(?i:'s)|a{1,3}|\\.\\[[^a-z]");
}

TEST(Regex, RefusesWhatMeansSomethingElseInPcre2) {
  for (const char* pattern : {"^a", "a$", "\\bword", "\\h+", "[a[b]]", "[[:alpha:]]", "[a&&b]", "(?m)a", "(?<name>a)",
                              "(*UCP)a", "a{,3}", "a{2}+", "[^\\S]", "\\xE9", "\\x{110000", "a\\", "[]a]", "[a"}) {
    EXPECT_THROW(Regex::pattern(pattern, "here"), UserError) << pattern;
  }
  EXPECT_USER_ERROR(Regex::pattern("a\\Zb", "here"), "here: '\\Z' in the regular expression 'a\\Zb'");
  EXPECT_USER_ERROR(Regex::pattern("(?:a", "here"), "the regular expression '(?:a' is not supported");
  EXPECT_USER_ERROR(Regex::pattern("\\p{Alphabetic}", "here"), "is not supported");
}

std::string normalized(NormalizerStep step, std::string_view text) {
  std::vector<NormalizerStep> steps;
  steps.push_back(std::move(step));
  std::string buffer;
  return std::string(Normalizer(std::move(steps)).apply(text, buffer));
}

TEST(Normalizer, KnowsTheFourForms) {
  const std::string_view text = "\xE1\xBA\x9B\xCC\xA3";  // U+1E9B U+0323, figure 6 of Unicode Standard Annex 15
  EXPECT_EQ(normalized(UnicodeForm::NFC, text), text);
  EXPECT_EQ(normalized(UnicodeForm::NFD, text), "\xC5\xBF\xCC\xA3\xCC\x87");
  EXPECT_EQ(normalized(UnicodeForm::NFKC, text), "\xE1\xB9\xA9");
  EXPECT_EQ(normalized(UnicodeForm::NFKD, text), "s\xCC\xA3\xCC\x87");
  EXPECT_EQ(normalized(UnicodeForm::NFC, std::string_view("a\0b", 3)), std::string("a\0b", 3));
}

TEST(Normalizer, NormalizesByUnicode9) {
  // U+1DF8, of Unicode 10, would move behind U+0598; U+11935 U+11930, of Unicode 13, would compose.
  for (const std::string_view text : {"x\xE1\xB7\xB8\xD6\x98", "\xF0\x91\xA4\xB5\xF0\x91\xA4\xB0"}) {
    EXPECT_EQ(normalized(UnicodeForm::NFC, text), text);
  }
  EXPECT_EQ(normalized(UnicodeForm::NFC, "e\xCC\x81\xE1\xB7\xB8\xCC\x81\xCC\xA3"),
            "\xC3\xA9\xE1\xB7\xB8\xCC\xA3\xCC\x81");
}

TEST(Normalizer, LowersEachCharacterByItself) {
  EXPECT_EQ(normalized(Lowercase{}, "AB\xC3\x89 \xCE\xA3\xCE\x9F\xCE\xA3"), "ab\xC3\xA9 \xCF\x83\xCE\xBF\xCF\x83");
  EXPECT_EQ(normalized(Lowercase{}, "\xC4\xB0"), "i\xCC\x87");  // capital i with dot
}

TEST(Normalizer, ReplacesAndPrepends) {
  EXPECT_EQ(normalized(Replace{Regex::pattern("a+", "test"), "<>"}, "baab a"), "b<>b <>");
  EXPECT_EQ(normalized(Replace{Regex::literal(".("), "\\1"}, "a.(b"), "a\\1b");
  EXPECT_EQ(normalized(Prepend{"_"}, "a"), "_a");
  EXPECT_EQ(normalized(Prepend{"_"}, ""), "");
}

using Parts = std::vector<std::pair<std::string, std::int32_t>>;

Parts parts(std::vector<AddedToken> tokens, std::string_view text) {
  Parts result;
  AddedTokens(std::move(tokens)).split(text, [&](std::string_view part, std::int32_t id) {
    result.emplace_back(part, id);
  });
  return result;
}

TEST(AddedTokens, AreFoundLeftmostAndLongest) {
  const std::vector<AddedToken> tokens = {
      {.content = "ab", .id = 1}, {.content = "abc", .id = 2}, {.content = "bcd", .id = 3}};
  EXPECT_EQ(parts(tokens, "xabcdab"), (Parts{{"x", -1}, {"abc", 2}, {"d", -1}, {"ab", 1}}));
  EXPECT_EQ(parts(tokens, ""), Parts());
}

TEST(AddedTokens, SwallowSpaceAndStandAloneAsTheyAreTold) {
  EXPECT_EQ(parts({{.content = "<m>", .id = 1, .lstrip = true, .rstrip = true}}, "a \xC2\xA0<m>\n b<m>"),
            (Parts{{"a", -1}, {" \xC2\xA0<m>\n ", 1}, {"b", -1}, {"<m>", 1}}));
  const AddedToken word = {.content = "on", .id = 2, .single_word = true};
  EXPECT_EQ(parts({word}, "on upon on_ -on-"), (Parts{{"on", 2}, {" upon on_ -", -1}, {"on", 2}, {"-", -1}}));
  EXPECT_EQ(parts({word}, "\xC3\xA9on on\xCC\x81"), (Parts{{"\xC3\xA9on on\xCC\x81", -1}}));
}

std::vector<std::int32_t> encode(ModelConfig config, std::string_view word) {
  std::vector<std::int32_t> ids;
  Model::Scratch scratch;
  Model(std::move(config)).encode(word, ids, scratch);
  return ids;
}

TEST(Model, AppliesTheFirstMergeOfTheListThenTheLeftmost) {
  const ModelConfig config{.vocabulary = {{"a", 0}, {"b", 1}, {"ab", 2}, {"ba", 3}, {"aba", 4}},
                           .merges = {{1, 0, 3}, {0, 1, 2}, {0, 3, 4}}};
  EXPECT_EQ(encode(config, "abab"), (std::vector<std::int32_t>{4, 1}));
  EXPECT_EQ(encode({.vocabulary = {{"a", 0}, {"aa", 1}}, .merges = {{0, 0, 1}}}, "aaaaa"),
            (std::vector<std::int32_t>{1, 1, 0}));
}

TEST(Model, FallsBackToBytesThenToTheUnknownToken) {
  ModelConfig config{.vocabulary = {{"a", 0}, {"?", 1}, {"<0xC3>", 2}, {"<0xA9>", 3}}, .merges = {}, .unknown = 1};
  EXPECT_EQ(encode(config, "bba"), (std::vector<std::int32_t>{1, 1, 0}));
  config.fuse_unknown = true;
  EXPECT_EQ(encode(config, "bbab"), (std::vector<std::int32_t>{1, 0, 1}));
  config.byte_fallback = true;
  EXPECT_EQ(encode(config,
                   "\xC3\xA9"
                   "b"),
            (std::vector<std::int32_t>{2, 3, 1}));
  config.unknown = -1;
  EXPECT_EQ(encode(config, "bab"), (std::vector<std::int32_t>{0}));
}

TEST(Model, SpellsEveryByteAndReadsItBack) {
  std::string bytes;
  for (std::size_t b = 0; b < 256; ++b) {
    ASSERT_TRUE(spelled_bytes(byte_spellings()[b], bytes));
    EXPECT_EQ(bytes, std::string(1, static_cast<char>(b)));
  }
  EXPECT_EQ(byte_spellings()[' '], "\xC4\xA0");   // U+0120
  EXPECT_EQ(byte_spellings()['\n'], "\xC4\x8A");  // U+010A
  EXPECT_FALSE(spelled_bytes("a b", bytes));
}

TEST(Decoder, StripsAndJoinsAsTheStepsSay) {
  EXPECT_EQ(decode({Strip{" ", 1, 1}}, {"  a  ", "b"}), " a b");
  EXPECT_EQ(decode({Fuse{}, Strip{" ", 1, 0}}, {" a", " b"}), "a b");
  EXPECT_EQ(decode({DecodeMetaspace{"_", true}}, {"_a", "_b"}), "a b");
  EXPECT_EQ(decode({DecodeMetaspace{"_", false}}, {"_a", "_b"}), " a b");
  EXPECT_EQ(decode({DecodeByteFallback{}}, {"<0xC3>", "<0xA9>", "<0xG0>"}), "\xC3\xA9<0xG0>");
}

}  // namespace
}  // namespace nibble::bpe
