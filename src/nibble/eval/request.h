// From text to what the model scores, by the rules of lm-evaluation-harness (api/model.py, utils.py).
//
//   input     c1 c2 c3 t1 t2      the model reads the context and the continuation without its last token
//   targets            t1 t2 t3   scored are the logits at the last positions: sum of log p(target | all before it)
//
//   border    White space at the end of a context goes to the front of its continuation. The continuation's tokens are
//             what encoding both as one text gives beyond as many tokens as the context alone has.
//   empty     An empty context is the prefix token; a continuation that begins with that token gives it away.
//   too long  Tokens are dropped from the left, until the input has as many as the model takes.
//   rolling   A text of any length in windows: each token is scored once, the first after the prefix token; the last
//             window reaches back as far as the model sees.
//
//   tokens 0..9, 4 at a time:   P 0 1 2 -> 0 1 2 3     3 4 5 6 -> 4 5 6 7     5 6 7 8 -> 8 9
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "nibble/data/tokenizer.h"

namespace nibble {

struct Request {
  std::vector<std::int32_t> input;
  std::vector<std::int32_t> targets;  ///< at least one; at most as many as the input has
  friend bool operator==(const Request&, const Request&) = default;
};

/// Context and continuation as ids to a request for a model that reads `max_length` tokens. UserError where there is
/// nothing to score or the continuation alone is longer.
Request request_of(std::vector<std::int32_t> context, std::vector<std::int32_t> continuation, std::int64_t max_length);

/// The windows of a text; none for an empty one.
std::vector<Request> rolling_requests(std::span<const std::int32_t> ids, std::int32_t prefix, std::int64_t max_length);

/// A tokenizer and what goes before texts.
class RequestEncoder {
 public:
  struct Options {
    std::int32_t prefix = 0;      ///< stands for an empty context
    bool add_bos = false;         ///< every encoded text begins with <s>
    std::int64_t max_length = 0;  ///< tokens the model reads
  };
  RequestEncoder(const Tokenizer& tokenizer, Options options) : tokenizer_(tokenizer), options_(options) {}

  Request pair(std::string_view context, std::string_view continuation) const;
  std::vector<Request> rolling(std::string_view text) const;

 private:
  std::vector<std::int32_t> encode(std::string_view text) const;
  const Tokenizer& tokenizer_;
  Options options_;
};

}  // namespace nibble
