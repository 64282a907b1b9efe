#include <sentencepiece_trainer.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "nibble/data/tokenizer.h"
#include "nibble/data/utf8.h"
#include "nibble/numerics/philox.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr std::size_t kMaxLineBytes = 4096;  // SentencePiece leaves out lines above 4192 bytes

/// How much of `text` to take as one line: all, or a piece that ends after a space, or at least between characters.
std::size_t line_length(std::string_view text) {
  if (text.size() <= kMaxLineBytes) return text.size();
  const std::size_t space = text.rfind(' ', kMaxLineBytes - 1);
  if (space != std::string_view::npos && space > 0) return space + 1;
  std::size_t end = kMaxLineBytes;
  while (end > 1 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return end;
}

/// Algorithm R of Vitter (1985): each line is kept with probability max_lines / lines.
class LineSample {
 public:
  LineSample(std::int64_t max_lines, std::uint64_t seed) : max_lines_(max_lines), random_{seed, 0, 0} {}

  void add(std::string_view line) {
    const std::int64_t index = seen_++;
    if (index < max_lines_) {
      lines_.emplace_back(line);
      return;
    }
    const Philox4 words = random_.words(static_cast<std::uint64_t>(index));
    const std::uint64_t word = (std::uint64_t{words.v[1]} << 32) | words.v[0];
    const std::uint64_t slot = word % static_cast<std::uint64_t>(index + 1);
    if (slot < lines_.size()) lines_[slot] = line;
  }
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  std::int64_t max_lines_;
  RandomStream random_;
  std::int64_t seen_ = 0;
  std::vector<std::string> lines_;
};

class LineIterator final : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return at_ == lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  std::size_t at_ = 0;
};

LineSample sample_lines(const TokenizerTraining& options) {
  LineSample sample(options.max_lines, options.seed);
  TextReader reader(options.inputs, options.reader);
  for (std::string document; reader.next(document);) {
    std::string_view rest = document;
    while (!rest.empty()) {
      const std::size_t newline = std::min(rest.find('\n'), rest.size());
      for (std::string_view line = rest.substr(0, newline); !line.empty();) {
        const std::size_t n = line_length(line);
        sample.add(line.substr(0, n));
        line.remove_prefix(n);
      }
      rest.remove_prefix(std::min(newline + 1, rest.size()));
    }
  }
  return sample;
}

/// A list as SentencePiece's options take it: comma separated, quoted as in CSV.
std::string csv(const std::vector<std::string>& values) {
  std::string out;
  for (const std::string& value : values) {
    out += (out.empty() ? "\"" : ",\"") + replace_all(value, "\"", "\"\"") + "\"";
  }
  return out;
}

}  // namespace

Tokenizer Tokenizer::train(const TokenizerTraining& options) {
  if (options.max_lines < 1) user_error("a tokenizer cannot be trained on {} lines; give 1 or more", options.max_lines);
  const LineSample sample = sample_lines(options);
  if (sample.lines().empty()) user_error("the inputs hold no text to train a tokenizer on");
  const std::unordered_map<std::string, std::string> arguments = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(options.vocab_size)},
      {"character_coverage", fmt::format("{}", options.character_coverage)},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"user_defined_symbols", csv(options.user_defined_pieces)},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"},
      {"num_threads", std::to_string(options.threads)},
      {"minloglevel", "3"},  // silence: failures come back as a status
  };
  LineIterator lines(sample.lines());
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &lines, &model);
  if (!status.ok()) {
    user_error("cannot train a tokenizer of {} pieces on {} lines of text: {}", options.vocab_size,
               sample.lines().size(), status.message());
  }
  return parse(std::move(model), "", "trained tokenizer");
}

}  // namespace nibble
