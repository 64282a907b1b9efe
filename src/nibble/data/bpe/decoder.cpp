#include "nibble/data/bpe/decoder.h"

#include <charconv>
#include <numeric>

#include "nibble/data/bpe/model.h"
#include "nibble/data/utf8.h"

namespace nibble::bpe {

namespace {

std::string joined(const std::vector<std::string>& tokens) {
  return std::accumulate(tokens.begin(), tokens.end(), std::string(),
                         [](std::string text, const std::string& token) { return std::move(text) + token; });
}

// Each is one step; the tokens may have `most` bytes together.
void apply(const DecodeByteLevel&, std::vector<std::string>& tokens, std::size_t) {
  std::string text, bytes;
  for (const std::string& token : tokens) text += spelled_bytes(token, bytes) ? bytes : token;
  tokens = {std::move(text)};
}

void apply(const DecodeByteFallback&, std::vector<std::string>& tokens, std::size_t) {
  for (std::string& token : tokens) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') continue;
    unsigned char byte = 0;
    const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
    if (error == std::errc() && end == token.data() + 5) token.assign(1, static_cast<char>(byte));
  }
}

void apply(const Fuse&, std::vector<std::string>& tokens, std::size_t) { tokens = {joined(tokens)}; }

void apply(const Strip& strip, std::vector<std::string>& tokens, std::size_t) {
  const std::size_t size = strip.content.size();
  for (std::string& token : tokens) {
    std::string_view left = token;
    for (std::size_t i = 0; i < strip.start && left.starts_with(strip.content); ++i) left.remove_prefix(size);
    for (std::size_t i = 0; i < strip.stop && left.ends_with(strip.content); ++i) left.remove_suffix(size);
    token = std::string(left);
  }
}

void apply(const DecodeMetaspace& metaspace, std::vector<std::string>& tokens, std::size_t) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = replace_all(tokens[i], metaspace.sign, i == 0 && metaspace.prepended ? "" : " ");
  }
}

void apply(const Replace& replace, std::vector<std::string>& tokens, std::size_t most) {
  for (std::string& token : tokens) {
    token = replace_matches(replace, token, most);
    most -= token.size();
  }
}

}  // namespace

std::string decode(const std::vector<DecoderStep>& steps, std::vector<std::string> tokens) {
  const auto add = [](std::size_t bytes, const std::string& token) { return bytes + token.size(); };
  const std::size_t most = most_replaced_bytes(std::accumulate(tokens.begin(), tokens.end(), std::size_t{0}, add));
  for (const DecoderStep& step : steps) {
    std::visit([&](const auto& one) { apply(one, tokens, most); }, step);
  }
  return joined(tokens);
}

}  // namespace nibble::bpe
