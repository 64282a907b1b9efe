#define PCRE2_CODE_UNIT_WIDTH 8
#include "nibble/data/bpe/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <cstdint>

#include "nibble/data/utf8.h"
#include "nibble/tensor/error.h"

namespace nibble::bpe {

namespace {

// An expression such as (a*)*b tries more ways than can be counted. The step count is that of one beginning of a match:
// sound expressions need a few for each byte of the text behind it, which a long run of blanks may be.
constexpr std::uint64_t kMostSteps = 1'000'000;
constexpr std::uint64_t kMostStepsAByte = 64;
constexpr std::uint32_t kMostKibibytes = 256 << 10;

std::uint32_t most_steps(std::size_t text_bytes) {
  const std::uint64_t steps = kMostSteps + kMostStepsAByte * std::uint64_t{text_bytes};
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(steps, UINT32_MAX));
}

}  // namespace

struct Regex::Code {
  Code(pcre2_code* c, bool j, std::string_view s) : code(c), jit(j), shown(s) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  pcre2_code* code;
  bool jit;
  std::string shown;  // for messages
};

struct Regex::Matcher::State {
  explicit State(std::shared_ptr<const Code> c)
      : code(std::move(c)), data(pcre2_match_data_create(1, nullptr)), context(pcre2_match_context_create(nullptr)) {
    pcre2_set_depth_limit(context, UINT32_MAX);  // depth takes heap, not stack, and that has its own limit
    pcre2_set_heap_limit(context, kMostKibibytes);
  }
  ~State() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  std::shared_ptr<const Code> code;
  pcre2_match_data* data;
  pcre2_match_context* context;
};

Regex::Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}

Regex Regex::compile(std::string_view expression, unsigned options, std::string_view shown, const std::string& origin) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                   PCRE2_UTF | options, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof message);
    user_error("{}: the regular expression '{}' is not supported: {}", origin, shown,
               reinterpret_cast<const char*>(message));
  }
  const bool jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  return Regex(std::make_shared<const Code>(code, jit, shown));
}

Regex Regex::pattern(std::string_view expression, const std::string& origin) {
  return compile(to_pcre2(expression, origin), 0, expression, origin);
}

Regex Regex::literal(std::string_view text) { return compile(text, PCRE2_LITERAL, text, "literal"); }

Regex::Matcher::Matcher(const Regex& regex) : state_(std::make_unique<State>(regex.code_)) {}
Regex::Matcher::~Matcher() = default;
Regex::Matcher::Matcher(Matcher&&) noexcept = default;

bool Regex::Matcher::find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end) {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const pcre2_code* code = state_->code->code;
  pcre2_set_match_limit(state_->context, most_steps(text.size()));
  for (bool again = false;; again = true) {
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (state_->code->jit) rc = pcre2_jit_match(code, subject, text.size(), from, 0, state_->data, state_->context);
    // Without machine code, or where its stack does not suffice: the interpreter, whose stack is the heap.
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, state_->data,
                       state_->context);
    }
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT) {
      user_error("the regular expression '{}' takes too long on this text: it is not made for a tokenizer",
                 state_->code->shown);
    }
    require(rc >= 0, "PCRE2 fails with error {} at byte {} of {}", rc, from, text.size());
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(state_->data);
    begin = range[0];
    end = range[1];
    if (again || end > from) return true;
    if (from == text.size()) return false;
    from += utf8_length(text[from]);
  }
}

}  // namespace nibble::bpe
