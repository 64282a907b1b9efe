#include "nibble/data/tokenizer.h"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <random>
#include <thread>

#include "nibble/io/checksum.h"
#include "tests/data/english.h"

namespace nibble {
namespace {

std::string round_trip(const Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.decode(tokenizer.encode(text));
}

/// A model such as Llama's: no piece for a newline.
std::string model_without_newline_piece(const TemporaryDirectory& dir, const std::string& extra) {
  dir.write("lines.txt", std::string(kEnglish[1]) + "\n" + std::string(kEnglish[2]) + "\n");
  const std::string prefix = (dir / "llama").string();
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      "--input=" + (dir / "lines.txt").string() + " --model_prefix=" + prefix +
      " --vocab_size=360 --model_type=bpe --byte_fallback=true --remove_extra_whitespaces=false "
      "--normalization_rule_name=identity --minloglevel=3 " +
      extra);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return prefix + ".model";
}

TEST(Tokenizer, TrainsTheVocabularyThatWasAsked) {
  const Tokenizer& tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 420);
  EXPECT_EQ(tokenizer.piece(0), "<unk>");
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.piece(1), "<s>");
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.piece(2), "</s>");
  EXPECT_EQ(tokenizer.piece(3), "<n>");
  EXPECT_EQ(tokenizer.piece(4), "<0x00>");
  EXPECT_EQ(tokenizer.piece(259), "<0xFF>");
}

TEST(Tokenizer, CompressesTheTextItWasTrainedOn) {
  const std::string text(kEnglish[1]);
  EXPECT_LT(small_tokenizer().encode(text).size(), text.size() * 3 / 5);
}

TEST(Tokenizer, DecodesWhatItEncoded) {
  const Tokenizer& tokenizer = small_tokenizer();
  for (const std::string& text :
       {std::string(), std::string("word"), std::string(" leading"), std::string("trailing "), std::string("a  b   c"),
        std::string("   "), std::string("\n"), std::string("a\nb\n\nc\n"), std::string(" \n \n"),
        std::string("tab\there"), std::string("caf\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80 \xCE\xB1\xCC\x81"),
        std::string("1837 + 42 = 1879"), std::string("x\0y", 3), std::string("<s> </s> <unk> <0x41>"),
        std::string(kEnglish[0])}) {
    EXPECT_EQ(round_trip(tokenizer, text), text);
  }
}

TEST(Tokenizer, DecodesRandomUnicodeThatItEncoded) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(fmt::format("seed 11, round {}", round));
    std::string text;
    for (unsigned i = 0, n = random() % 60; i < n; ++i) {
      const unsigned kind = random() % 4;
      unsigned c = kind == 0 ? random() % 0x80 : kind == 1 ? random() % 0x800 : random() % 0x11000;
      if ((c >= 0xD800 && c < 0xE000) || c == 0x2581) c = '\n';  // U+2581 is SentencePiece's own sign for a space
      if (c < 0x80) {
        text += static_cast<char>(c);
      } else if (c < 0x800) {
        text += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
      } else if (c < 0x10000) {
        text += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
                 static_cast<char>(0x80 | (c & 63))};
      } else {
        text += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
                 static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
      }
    }
    EXPECT_EQ(round_trip(small_tokenizer(), text), text);
  }
}

TEST(Tokenizer, ADocumentIsOneLineThatEndsWithEos) {
  const Tokenizer& tokenizer = small_tokenizer();
  std::vector<std::int32_t> ids = {7};
  tokenizer.encode_document("one\ntwo", ids);
  EXPECT_EQ(ids.front(), 7);
  EXPECT_EQ(ids.back(), tokenizer.eos_id());
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 3), 1);  // <n>
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer.bos_id()), 0);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer.eos_id()), 1);
  EXPECT_EQ(tokenizer.decode(std::span(ids).subspan(1)), "one\ntwo");
}

TEST(Tokenizer, TextThatLooksLikeAControlPieceStaysText) {
  for (const std::int32_t id : small_tokenizer().encode("a</s>b<s>")) EXPECT_GE(id, 3);
}

TEST(Tokenizer, MakesEveryDigitAPieceOfItsOwn) {
  const Tokenizer& tokenizer = small_tokenizer();
  for (const std::int32_t id : tokenizer.encode("1837 1859")) {
    const std::string piece = tokenizer.piece(id);
    EXPECT_LE(std::count_if(piece.begin(), piece.end(), [](char c) { return c >= '0' && c <= '9'; }), 1) << piece;
  }
}

TEST(Tokenizer, WithoutANewlinePieceEncodesNewlinesAsTheModelDoes) {
  const TemporaryDirectory dir;
  const Tokenizer tokenizer = Tokenizer::load(model_without_newline_piece(dir, ""));
  const auto ids = tokenizer.encode("one\ntwo");
  const auto newline = std::count_if(ids.begin(), ids.end(), [&](auto id) { return tokenizer.piece(id) == "<0x0A>"; });
  EXPECT_EQ(newline, 1);
  EXPECT_EQ(tokenizer.decode(ids), "one\ntwo");
  EXPECT_EQ(round_trip(tokenizer, "a<n>b"), "a<n>b");
}

TEST(Tokenizer, SaveAndLoadKeepModelAndHash) {
  const TemporaryDirectory dir;
  small_tokenizer().save(dir / "t.model");
  const Tokenizer loaded = Tokenizer::load(dir / "t.model");
  EXPECT_EQ(loaded.hash(), small_tokenizer().hash());
  EXPECT_EQ(loaded.hash(), xxh3_64(read_file(dir / "t.model")));
  EXPECT_EQ(loaded.encode(kEnglish[3]), small_tokenizer().encode(kEnglish[3]));
}

TEST(Tokenizer, ASentencePieceModelBeginsTextsWhereTheConfigBesideItSaysSo) {
  const TemporaryDirectory dir;
  small_tokenizer().save_in(dir.path());
  EXPECT_FALSE(Tokenizer::load(dir.path()).adds_bos());
  dir.write("tokenizer_config.json", R"({"add_bos_token": true})");
  EXPECT_TRUE(Tokenizer::load(dir.path()).adds_bos());
  EXPECT_EQ(Tokenizer::load(dir.path()).encode("a"), small_tokenizer().encode("a")) << "encode never does";
  dir.write("tokenizer_config.json", R"({"add_bos_token": "yes"})");
  EXPECT_USER_ERROR(Tokenizer::load(dir.path()), "add_bos_token: not true or false");
}

TEST(Tokenizer, TrainingIsReproducibleAndTheSampleDependsOnTheSeed) {
  const TemporaryDirectory dir;
  TokenizerTraining options = small_training(dir);
  EXPECT_EQ(Tokenizer::train(options).hash(), small_tokenizer().hash());
  options.vocab_size = 330;
  options.max_lines = 30;
  const std::uint64_t sampled = Tokenizer::train(options).hash();
  EXPECT_EQ(Tokenizer::train(options).hash(), sampled);
  options.seed = 2;
  EXPECT_NE(Tokenizer::train(options).hash(), sampled);
}

TEST(Tokenizer, TrainsOnLinesOfAnyLength) {
  const TemporaryDirectory dir;
  TokenizerTraining options;
  std::string line;  // the only text, in one line that SentencePiece alone would leave out
  for (const std::string& document : english_documents(30)) {
    line += document;
    std::replace(line.begin(), line.end(), '\n', ' ');
  }
  ASSERT_GT(line.size(), 10000u);
  options.inputs = {dir.write("one-line.txt", line)};
  options.vocab_size = 400;
  EXPECT_EQ(Tokenizer::train(options).vocab_size(), 400);
}

TEST(Tokenizer, RefusesToTrainWhatTheTextDoesNotHold) {
  const TemporaryDirectory dir;
  TokenizerTraining options;
  options.inputs = {dir.write("blank.txt", "\n\n")};
  EXPECT_USER_ERROR(Tokenizer::train(options), "no text");
  options.inputs = {dir.write("short.txt", "just a few words\n")};
  EXPECT_USER_ERROR(Tokenizer::train(options), "cannot train a tokenizer of 32000 pieces");
  options.vocab_size = 100;
  EXPECT_USER_ERROR(Tokenizer::train(options), "cannot train a tokenizer of 100 pieces");
  options.max_lines = 0;
  EXPECT_USER_ERROR(Tokenizer::train(options), "on 0 lines");
}

TEST(Tokenizer, RefusesAFileThatIsNoModel) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(Tokenizer::load(dir / "none.model"), "none.model': No such file");
  EXPECT_USER_ERROR(Tokenizer::load(dir.write("a.model", "")), "is not a SentencePiece model");
  small_tokenizer().save(dir / "c.model");
  const std::string whole = read_file(dir / "c.model");
  EXPECT_USER_ERROR(Tokenizer::load(dir.write("c.model", whole.substr(0, whole.size() / 2 + 1))),
                    "is not a SentencePiece model");
}

TEST(Tokenizer, RefusesAModelWithoutEos) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(Tokenizer::load(model_without_newline_piece(dir, "--eos_id=-1")), "no end-of-sentence piece");
}

TEST(Tokenizer, RefusesIdsOutsideItsVocabulary) {
  const std::vector<std::int32_t> below = {5, -1}, above = {420};
  EXPECT_USER_ERROR(small_tokenizer().decode(below), "token -1 is not in the tokenizer's vocabulary of 420");
  EXPECT_USER_ERROR(small_tokenizer().decode(above), "token 420");
  EXPECT_USER_ERROR(small_tokenizer().piece(420), "token 420");
}

TEST(Tokenizer, EncodesTheSameFromManyThreads) {
  const Tokenizer& tokenizer = small_tokenizer();
  const auto documents = english_documents(40);
  std::vector<std::vector<std::int32_t>> expected;
  for (const auto& document : documents) expected.push_back(tokenizer.encode(document));
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < documents.size(); ++i) {
        wrong[t] += tokenizer.encode(documents[i]) != expected[i] || tokenizer.decode(expected[i]) != documents[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

}  // namespace
}  // namespace nibble
