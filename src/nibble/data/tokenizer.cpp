#include "nibble/data/tokenizer.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "nibble/data/word_boundaries.h"
#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/file.h"
#include "nibble/numerics/philox.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr std::string_view kNewlinePiece = "<n>";
constexpr std::size_t kMaxLineBytes = 4096;                    // SentencePiece leaves out lines above 4192 bytes
constexpr std::size_t kSegmentBytes = 4096;                    // long enough to hide the cost of a call
constexpr std::size_t kMaxCachedBytes = 64;                    // longer words seldom come again
constexpr std::size_t kMaxCachedWords = std::size_t{1} << 18;  // about 40 MB a thread

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 32);
  std::size_t begin = 0;
  for (std::size_t at; (at = text.find(from, begin)) != std::string_view::npos; begin = at + from.size()) {
    out.append(text, begin, at - begin).append(to);
  }
  return out.append(text, begin);
}

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

struct Tokenizer::State {
  sentencepiece::SentencePieceProcessor processor;
  std::string model;
  std::uint64_t hash = 0;
  bool has_newline_piece = false;
  bool independent_words = false;
};

const std::vector<std::int32_t>* WordCache::find(std::string_view word) const {
  const auto it = words_.find(word);
  return it == words_.end() ? nullptr : &it->second;
}

void WordCache::insert(std::string_view word, std::span<const std::int32_t> ids) {
  if (words_.size() >= kMaxCachedWords) words_.clear();
  words_.emplace(word, std::vector<std::int32_t>(ids.begin(), ids.end()));
}

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_model(std::string model, const std::string& origin) {
  auto state = std::make_unique<State>();
  state->model = std::move(model);
  const auto status = state->processor.LoadFromSerializedProto(state->model);
  if (!status.ok() || state->processor.GetPieceSize() == 0) {
    user_error("'{}' is not a SentencePiece model; give the .model file of a tokenizer", origin);
  }
  if (state->processor.eos_id() < 0) {
    user_error("the tokenizer '{}' has no end-of-sentence piece </s>; train it with one", origin);
  }
  state->hash = xxh3_64(state->model);
  const int newline = state->processor.PieceToId(kNewlinePiece);
  state->has_newline_piece = !state->processor.IsUnknown(newline);
  state->independent_words = words_are_independent(state->model);
  return Tokenizer(std::move(state));
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) { return from_model(read_file(path), path.string()); }

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
  return from_model(std::move(model), "trained tokenizer");
}

void Tokenizer::save(const std::filesystem::path& path) const { write_file_atomic(path, state_->model); }

/// Encodes a run of words. Any but the first begins with a space, which stands for the one that SentencePiece adds.
void Tokenizer::append_segment(std::string_view segment, bool first, std::vector<std::int32_t>& ids) const {
  if (!first) segment.remove_prefix(1);
  std::vector<int> encoded;
  const bool replace = state_->has_newline_piece && segment.find('\n') != std::string_view::npos;
  const auto status = replace ? state_->processor.Encode(replace_all(segment, "\n", kNewlinePiece), &encoded)
                              : state_->processor.Encode(segment, &encoded);
  require(status.ok(), "SentencePiece cannot encode: {}", status.message());
  ids.insert(ids.end(), encoded.begin(), encoded.end());
}

void Tokenizer::append(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache) const {
  // SentencePiece's time and memory grow faster than the text: long texts are cut even when nothing is cached.
  const std::size_t min_bytes = cache == nullptr ? kSegmentBytes : 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = state_->independent_words ? next_word(text, begin + min_bytes) : text.size();
    const std::string_view segment = text.substr(begin, end - begin);
    // The first word has no space of its own, so it is encoded differently from the same word elsewhere.
    const bool cached = cache != nullptr && begin > 0 && segment.size() <= kMaxCachedBytes;
    const std::vector<std::int32_t>* known = cached ? cache->find(segment) : nullptr;
    if (known != nullptr) {
      ids.insert(ids.end(), known->begin(), known->end());
    } else {
      const std::size_t before = ids.size();
      append_segment(segment, begin == 0, ids);
      if (cached) cache->insert(segment, std::span(ids).subspan(before));
    }
    begin = end;
  }
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  append(text, ids, nullptr);
  return ids;
}

void Tokenizer::encode_document(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache) const {
  append(text, ids, cache);
  ids.push_back(eos_id());
}

void Tokenizer::check_id(std::int32_t id) const {
  if (id < 0 || id >= vocab_size()) {
    user_error("token {} is not in the tokenizer's vocabulary of {}; use the tokenizer that made the tokens", id,
               vocab_size());
  }
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  for (const std::int32_t id : ids) check_id(id);
  std::string text;
  const auto status = state_->processor.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  require(status.ok(), "SentencePiece cannot decode: {}", status.message());
  return state_->has_newline_piece ? replace_all(text, kNewlinePiece, "\n") : text;
}

std::int32_t Tokenizer::vocab_size() const { return state_->processor.GetPieceSize(); }
std::int32_t Tokenizer::bos_id() const { return state_->processor.bos_id(); }
std::int32_t Tokenizer::eos_id() const { return state_->processor.eos_id(); }
std::uint64_t Tokenizer::hash() const { return state_->hash; }

std::string Tokenizer::piece(std::int32_t id) const {
  check_id(id);
  return state_->processor.IdToPiece(id);
}

}  // namespace nibble
