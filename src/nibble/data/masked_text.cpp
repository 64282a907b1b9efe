#include "nibble/data/masked_text.h"

#include <algorithm>
#include <utility>

namespace nibble {

namespace {

class MaskedEncoder {
 public:
  MaskedEncoder(const Tokenizer& tokenizer, MaskedTokens& out, WordCache* cache)
      : tokenizer_(tokenizer), out_(out), cache_(cache) {}

  void add_token(const MaskedPart& part) {
    emit(std::span(&part.token, 1), part.counted);
    text_.clear();
    ids_.clear();
    if (!part.spelled) return;
    text_ = part.text;
    ids_ = {part.token};
  }

  void add_text(const std::string& text, bool counted) {
    std::vector<std::int32_t> whole = encode(text_ + text);
    if (std::mismatch(ids_.begin(), ids_.end(), whole.begin(), whole.end()).first == ids_.end()) {
      emit(std::span(whole).subspan(ids_.size()), counted);
      text_ += text;
    } else {
      out_.cut_borders += 1;
      whole = encode(text);
      emit(whole, counted);
      text_ = text;
    }
    ids_ = std::move(whole);
  }

 private:
  std::vector<std::int32_t> encode(const std::string& text) const {
    std::vector<std::int32_t> ids;
    tokenizer_.encode(text, ids, cache_);
    return ids;
  }
  void emit(std::span<const std::int32_t> ids, bool counted) {
    out_.ids.insert(out_.ids.end(), ids.begin(), ids.end());
    out_.counted.insert(out_.counted.end(), ids.size(), counted ? 1 : 0);
  }

  const Tokenizer& tokenizer_;
  MaskedTokens& out_;
  WordCache* cache_;
  std::string text_;               // what is encoded together with the next text
  std::vector<std::int32_t> ids_;  // its ids
};

}  // namespace

void encode_masked(const Tokenizer& tokenizer, std::span<const MaskedPart> parts, MaskedTokens& out, WordCache* cache) {
  MaskedEncoder encoder(tokenizer, out, cache);
  for (std::size_t i = 0; i < parts.size();) {
    if (parts[i].token >= 0) {
      encoder.add_token(parts[i++]);
      continue;
    }
    const bool counted = parts[i].counted;
    std::string text;
    for (; i < parts.size() && parts[i].token < 0 && parts[i].counted == counted; ++i) text += parts[i].text;
    if (!text.empty()) encoder.add_text(text, counted);
  }
}

}  // namespace nibble
