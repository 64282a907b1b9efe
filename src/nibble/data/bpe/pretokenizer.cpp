#include "nibble/data/bpe/pretokenizer.h"

#include <optional>

#include "nibble/data/utf8.h"

namespace nibble::bpe {

namespace {

/// Joins neighbouring parts of a text, which come from left to right, as a Delimiter wants it.
class Joiner {
 public:
  Joiner(Delimiter behavior, const Pretokenizer::Receiver& receive) : behavior_(behavior), receive_(receive) {}

  void add(std::size_t begin, std::size_t end, bool match, std::string_view text) {
    if (begin == end) {  // an empty match only parts its neighbours
      flush(text);
      return;
    }
    if (held_ && joins(match)) {
      end_ = end;
    } else {
      flush(text);
      begin_ = begin;
      end_ = end;
      held_ = !(match && behavior_ == Delimiter::Removed);
    }
    match_ = match;
  }
  void flush(std::string_view text) {
    if (held_ && begin_ < end_) receive_(text.substr(begin_, end_ - begin_));
    held_ = false;
  }

 private:
  bool joins(bool match) const {
    switch (behavior_) {
      case Delimiter::Removed:
      case Delimiter::Isolated: return false;
      case Delimiter::MergedWithPrevious: return match && !match_;
      case Delimiter::MergedWithNext: return !match && match_;
      case Delimiter::Contiguous: return match == match_;
    }
    return false;
  }

  Delimiter behavior_;
  const Pretokenizer::Receiver& receive_;
  bool held_ = false;   // [begin_, end_) waits for what may join it
  bool match_ = false;  // what came last
  std::size_t begin_ = 0, end_ = 0;
};

/// Where the first run of `sign` after `from` begins that follows something else, or the end.
std::size_t next_run(std::string_view text, std::string_view sign, std::size_t from) {
  std::size_t at = from;
  while (text.substr(at).starts_with(sign)) at += sign.size();
  return std::min(text.find(sign, at), text.size());
}

}  // namespace

Pretokenizer::Session::Session(const Pretokenizer& pretokenizer) : steps_(pretokenizer.steps_) {
  static const Regex none = Regex::literal("x");
  for (const PretokenizerStep& step : steps_) {
    const auto* split = std::get_if<SplitStep>(&step);
    matchers_.emplace_back(split != nullptr ? split->pattern : none);
  }
}

void Pretokenizer::Session::cut(const SplitStep& split, std::size_t step, std::string_view text, bool first,
                                const Receiver& receive) {
  const Receiver next = [&](std::string_view part) {
    run(step + 1, part, first && part.data() == text.data(), receive);
  };
  Joiner joiner(split.behavior, step + 1 == steps_.size() ? receive : next);
  std::size_t done = 0;
  for (std::size_t begin = 0, end = 0; matchers_[step].find(text, done, begin, end); done = end) {
    if (done < begin) joiner.add(done, begin, split.invert, text);
    joiner.add(begin, end, !split.invert, text);
  }
  if (done < text.size()) joiner.add(done, text.size(), split.invert, text);
  joiner.flush(text);
}

void Pretokenizer::Session::run(std::size_t step, std::string_view text, bool first, const Receiver& receive) {
  if (step == steps_.size()) return receive(text);
  if (const auto* split = std::get_if<SplitStep>(&steps_[step])) {
    cut(*split, step, text, first, receive);
  } else if (std::holds_alternative<PrefixSpace>(steps_[step])) {
    if (text.starts_with(' ')) return run(step + 1, text, first, receive);
    std::string prefixed = " ";
    run(step + 1, prefixed.append(text), first, receive);
  } else if (const auto* metaspace = std::get_if<Metaspace>(&steps_[step])) {
    std::string signs = replace_all(text, " ", metaspace->sign);
    const bool wanted =
        metaspace->prepend == Metaspace::Prepend::Always || (metaspace->prepend == Metaspace::Prepend::First && first);
    if (wanted && !signs.starts_with(metaspace->sign)) signs = metaspace->sign + signs;
    run(step + 1, signs, first, receive);
  } else {
    const std::string& sign = std::get<CutBefore>(steps_[step]).sign;
    for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      end = next_run(text, sign, begin);
      run(step + 1, text.substr(begin, end - begin), first && begin == 0, receive);
    }
  }
}

void Pretokenizer::Session::split(std::string_view text, bool first, const Receiver& receive) {
  if (!text.empty()) run(0, text, first, receive);
}

}  // namespace nibble::bpe
