#include "nibble/eval/request.h"

#include <algorithm>
#include <string>

#include "nibble/eval/text_rules.h"
#include "nibble/tensor/error.h"

namespace nibble {

Request request_of(std::vector<std::int32_t> context, std::vector<std::int32_t> continuation, std::int64_t max_length) {
  const auto limit = static_cast<std::size_t>(max_length);
  if (continuation.empty()) user_error("its continuation has no tokens of its own");
  if (continuation.size() > limit) {
    user_error("its continuation has {} tokens, the model reads {}", continuation.size(), max_length);
  }
  require(!context.empty(), "a request without context");
  Request request{std::move(context), std::move(continuation)};
  request.input.insert(request.input.end(), request.targets.begin(), request.targets.end() - 1);
  if (request.input.size() > limit) request.input.erase(request.input.begin(), request.input.end() - max_length);
  return request;
}

std::vector<Request> rolling_requests(std::span<const std::int32_t> ids, std::int32_t prefix, std::int64_t max_length) {
  const auto limit = static_cast<std::size_t>(max_length);
  std::vector<Request> windows;
  for (std::size_t done = 0; done < ids.size();) {
    const std::size_t count = std::min(limit, ids.size() - done);
    const std::span<const std::int32_t> targets = ids.subspan(done, count);
    Request window{{}, {targets.begin(), targets.end()}};
    if (done == 0) {
      window.input.push_back(prefix);
      window.input.insert(window.input.end(), targets.begin(), targets.end() - 1);
    } else {
      const std::size_t end = done + count - 1;
      const std::span<const std::int32_t> input = ids.subspan(end - limit, limit);
      window.input.assign(input.begin(), input.end());
    }
    windows.push_back(std::move(window));
    done += count;
  }
  return windows;
}

std::vector<std::int32_t> RequestEncoder::encode(std::string_view text) const {
  std::vector<std::int32_t> ids = tokenizer_.encode(text);
  if (options_.add_bos) ids.insert(ids.begin(), tokenizer_.bos_id());
  return ids;
}

Request RequestEncoder::pair(std::string_view context, std::string_view continuation) const {
  if (context.empty()) {
    std::vector<std::int32_t> ids = tokenizer_.encode(continuation);
    if (!ids.empty() && ids[0] == options_.prefix) ids.erase(ids.begin());
    return request_of({options_.prefix}, std::move(ids), options_.max_length);
  }
  const std::size_t spaces = trailing_space_bytes(context);
  const std::string whole = std::string(context) + std::string(continuation);
  std::vector<std::int32_t> ids = encode(whole);
  std::vector<std::int32_t> before = encode(context.substr(0, context.size() - spaces));
  if (before.empty()) return request_of({options_.prefix}, std::move(ids), options_.max_length);
  ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min(before.size(), ids.size())));
  return request_of(std::move(before), std::move(ids), options_.max_length);
}

std::vector<Request> RequestEncoder::rolling(std::string_view text) const {
  return rolling_requests(encode(text), options_.prefix, options_.max_length);
}

}  // namespace nibble
