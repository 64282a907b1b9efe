#include "nibble/data/tokenizer.h"

#include <omp.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <sstream>

#include "nibble/cli/arguments.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

std::string standard_input() { return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()}; }

class TokenizerTrain final : public Command {
 public:
  std::string name() const override { return "tokenizer train"; }
  std::string summary() const override { return "train a SentencePiece BPE model on text"; }
  std::string examples() const override {
    return "  nibble tokenizer train --input 'corpus/*.txt.zst' --vocab 32000 --out tokenizer.model";
  }
  void declare(Arguments& a) override {
    a.texts("--input", options_.inputs, "text files, globs or - (.txt .jsonl, also .gz .zst)", true);
    a.integer("--vocab", vocab_, "number of pieces");
    a.path("--out", out_, "the model file", true);
    a.integer("--max-lines", options_.max_lines, "train on a sample of at most this many lines");
    a.text("--separator", options_.reader.separator, "line that ends a document");
    a.text("--field", options_.reader.json_field, "field of .jsonl objects that holds the text");
  }
  int run() override {
    options_.vocab_size = static_cast<int>(vocab_);
    options_.threads = omp_get_max_threads();
    Tokenizer::train(options_).save(out_);
    fmt::print("{}: {} pieces\n", out_.string(), vocab_);
    return 0;
  }

 private:
  TokenizerTraining options_;
  std::int64_t vocab_ = 32000;
  std::filesystem::path out_;
};

class TokenizerEncode final : public Command {
 public:
  std::string name() const override { return "tokenizer encode"; }
  std::string summary() const override { return "text to token ids"; }
  std::string examples() const override {
    return "  nibble tokenizer encode --model tokenizer.model --text 'Hello world'\n"
           "  nibble tokenizer encode --model tokenizer.model --pieces < file.txt";
  }
  void declare(Arguments& a) override {
    a.path("--model", model_, "SentencePiece model or tokenizer.json, or a folder with one", true);
    a.text("--text", text_, "the text; standard input where it is not given");
    a.flag("--pieces", pieces_, "print the pieces instead of the ids");
  }
  int run() override {
    const Tokenizer tokenizer = Tokenizer::load(model_);
    const std::vector<std::int32_t> ids = tokenizer.encode(text_.empty() ? standard_input() : text_);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::string word = pieces_ ? tokenizer.piece(ids[i]) : std::to_string(ids[i]);
      fmt::print("{}{}", i == 0 ? "" : " ", word);
    }
    fmt::print("\n");
    return 0;
  }

 private:
  std::filesystem::path model_;
  std::string text_;
  bool pieces_ = false;
};

class TokenizerDecode final : public Command {
 public:
  std::string name() const override { return "tokenizer decode"; }
  std::string summary() const override { return "token ids to text"; }
  std::string examples() const override { return "  echo 421 17 9 | nibble tokenizer decode --model tokenizer.model"; }
  void declare(Arguments& a) override {
    a.path("--model", model_, "SentencePiece model or tokenizer.json", true);
    a.text("--ids", text_, "ids separated by blanks; standard input where they are not given");
  }
  int run() override {
    const Tokenizer tokenizer = Tokenizer::load(model_);
    std::istringstream in(text_.empty() ? standard_input() : text_);
    std::vector<std::int32_t> ids;
    for (std::string word; in >> word;) {
      char* end = nullptr;
      const long id = std::strtol(word.c_str(), &end, 10);
      if (*end != '\0') user_error("'{}' is not a token id", word);
      ids.push_back(static_cast<std::int32_t>(id));
    }
    fmt::print("{}\n", tokenizer.decode(ids));
    return 0;
  }

 private:
  std::filesystem::path model_;
  std::string text_;
};

}  // namespace

std::unique_ptr<Command> make_tokenizer_train_command() { return std::make_unique<TokenizerTrain>(); }
std::unique_ptr<Command> make_tokenizer_encode_command() { return std::make_unique<TokenizerEncode>(); }
std::unique_ptr<Command> make_tokenizer_decode_command() { return std::make_unique<TokenizerDecode>(); }

}  // namespace nibble
