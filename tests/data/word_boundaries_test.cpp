#include "nibble/data/word_boundaries.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <random>

#include "tests/data/english.h"

namespace nibble {
namespace {

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = next_word(text, begin);
    words.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

/// A .model trained with extra SentencePiece options.
std::string train_model(const TemporaryDirectory& dir, const std::string& options) {
  const std::string input = dir.write("lines.txt", joined(english_documents(60)));
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      "--input=" + input + " --model_prefix=" + (dir / "m").string() + " --vocab_size=640 --byte_fallback=true " +
      "--minloglevel=3 " + options);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return read_file(dir / "m.model");
}

/// Words, runs of spaces, signs that look like spaces, newlines, other scripts and broken UTF-8.
std::string random_text(std::mt19937& random, std::size_t pieces) {
  static const std::string parts[] = {" ",
                                      "  ",
                                      "   ",
                                      "\n",
                                      "\xE2\x96\x81",
                                      "\xE2\x96\x81 ",
                                      "the",
                                      "possession",
                                      "of",
                                      "known",
                                      "<n>",
                                      " Alice",
                                      "1837",
                                      "\t",
                                      "\xC3\xA9",
                                      "\xE6\x97\xA5",
                                      "\xE2",
                                      "\x96\x81",
                                      ".",
                                      ", ",
                                      "it",
                                      "<",
                                      "n>",
                                      "</s>",
                                      "\xC2\xA0",
                                      std::string(1, 0),
                                      "\xCC\x81",
                                      " \xCC\x81",
                                      "\r\n",
                                      "\xE3\x80\x80"};
  std::string text;
  for (std::size_t i = 0; i < pieces; ++i) text += parts[random() % std::size(parts)];
  return text;
}

TEST(NextWord, CutsBeforeEveryRunOfSpaces) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(words_of(""), Words{});
  EXPECT_EQ(words_of("a"), Words{"a"});
  EXPECT_EQ(words_of("a bc  d"), (Words{"a", " bc", "  d"}));
  EXPECT_EQ(words_of(" a\nb c"), (Words{" a\nb", " c"}));
}

TEST(NextWord, LeavesSpacesAtTheEndToTheLastWord) {
  EXPECT_EQ(words_of("a b  "), (std::vector<std::string>{"a", " b  "}));
  EXPECT_EQ(words_of("   "), std::vector<std::string>{"   "});
}

TEST(NextWord, DoesNotCutBehindALiteralSpaceSign) {
  EXPECT_EQ(words_of("a\xE2\x96\x81 b c"), (std::vector<std::string>{"a\xE2\x96\x81 b", " c"}));
}

TEST(WordsAreIndependent, HoldsForBpeWithoutNormalisation) {
  const TemporaryDirectory dir;
  const std::string bpe = "--model_type=bpe --normalization_rule_name=identity ";
  EXPECT_TRUE(words_are_independent(train_model(dir, bpe)));
  EXPECT_TRUE(words_are_independent(train_model(dir, bpe + "--user_defined_symbols=<n>,<code>")));
  EXPECT_TRUE(words_are_independent(
      train_model(dir, bpe + "--remove_extra_whitespaces=false --allow_whitespace_only_pieces=true")));
}

TEST(WordsAreIndependent, FailsWhereSpacesAreTreatedOtherwise) {
  const TemporaryDirectory dir;
  const std::string bpe = "--model_type=bpe --normalization_rule_name=identity ";
  EXPECT_FALSE(words_are_independent(train_model(dir, "--model_type=unigram --normalization_rule_name=identity")));
  EXPECT_FALSE(words_are_independent(train_model(dir, "--model_type=bpe --normalization_rule_name=nmt_nfkc")));
  EXPECT_FALSE(words_are_independent(train_model(dir, bpe + "--add_dummy_prefix=false")));
  EXPECT_FALSE(words_are_independent(train_model(dir, bpe + "--split_by_whitespace=false")));
  EXPECT_FALSE(words_are_independent(train_model(dir, bpe + "--treat_whitespace_as_suffix=true")));
  EXPECT_FALSE(words_are_independent(train_model(dir, bpe + "--user_defined_symbols=of\xE2\x96\x81the")));
}

TEST(WordsAreIndependent, FailsForBytesThatAreNoModel) {
  EXPECT_FALSE(words_are_independent(""));
  EXPECT_FALSE(words_are_independent("no model"));
  small_tokenizer();
  const TemporaryDirectory dir;
  small_tokenizer().save(dir / "t.model");
  const std::string model = read_file(dir / "t.model");
  EXPECT_TRUE(words_are_independent(model));
  EXPECT_FALSE(words_are_independent(std::string_view(model).substr(0, model.size() - 1)));
  EXPECT_FALSE(words_are_independent(std::string_view(model).substr(0, model.size() / 2)));
}

// The reference is SentencePiece applied to the text as a whole, for every kind of model.
TEST(Tokenizer, EncodesAsSentencePieceDoesWithAndWithoutACache) {
  const TemporaryDirectory dir;
  std::mt19937 random(21);
  const std::string bpe = "--model_type=bpe --normalization_rule_name=identity ";
  for (const std::string& options :
       {bpe, bpe + "--remove_extra_whitespaces=false --allow_whitespace_only_pieces=true",
        bpe + "--user_defined_symbols=<n>,Alice,n> --remove_extra_whitespaces=false",
        bpe + "--user_defined_symbols=<n>", bpe + "--add_dummy_prefix=false", bpe + "--split_by_whitespace=false",
        bpe + "--treat_whitespace_as_suffix=true", std::string("--model_type=bpe --normalization_rule_name=nmt_nfkc"),
        std::string("--model_type=unigram")}) {
    SCOPED_TRACE("seed 21, " + options);
    const std::string model = train_model(dir, options);
    sentencepiece::SentencePieceProcessor reference;
    ASSERT_TRUE(reference.LoadFromSerializedProto(model).ok());
    const Tokenizer tokenizer = Tokenizer::load(dir.write("t.model", model));
    const bool replaces = options.find("<n>") != std::string::npos;
    WordCache cache;
    for (int round = 0; round < 120; ++round) {
      const std::string text = round < 8 ? english_documents(8)[static_cast<std::size_t>(round)]
                                         : random_text(random, round < 115 ? random() % 30 : 4000);
      std::string line;
      for (const char c : text) {
        if (c == '\n' && replaces) {
          line += "<n>";
        } else {
          line += c;
        }
      }
      std::vector<int> expected;
      ASSERT_TRUE(reference.Encode(line, &expected).ok());
      ASSERT_EQ(tokenizer.encode(text), expected) << "round " << round;
      expected.push_back(reference.eos_id());
      std::vector<std::int32_t> cached;
      tokenizer.encode_document(text, cached, &cache);
      ASSERT_EQ(cached, expected) << "round " << round;
      cached.clear();
      tokenizer.encode_document(text, cached, &cache);
      ASSERT_EQ(cached, expected) << "again, round " << round;
    }
  }
}

}  // namespace
}  // namespace nibble
