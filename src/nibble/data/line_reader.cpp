#include "nibble/data/line_reader.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "nibble/tensor/error.h"

namespace nibble {

namespace {
constexpr std::size_t kBlockBytes = 256 << 10;
}  // namespace

LineReader::LineReader(const std::string& input, std::uint64_t most_bytes, std::string advice)
    : name_(input == "-" ? "<stdin>" : input),
      source_(open_byte_source(input)),
      most_bytes_(most_bytes),
      advice_(std::move(advice)),
      block_(kBlockBytes) {}

bool LineReader::next(std::string& line) {
  line.clear();
  bool any = false;
  for (;;) {
    if (begin_ == end_) {
      begin_ = 0;
      end_ = source_->read(std::as_writable_bytes(std::span(block_)));
      if (end_ == 0) break;
    }
    any = true;
    const char* from = block_.data() + begin_;
    const auto* newline = static_cast<const char*>(std::memchr(from, '\n', end_ - begin_));
    const std::size_t n = newline == nullptr ? end_ - begin_ : static_cast<std::size_t>(newline - from);
    check_length(line.size() + n);
    line.append(from, n);
    begin_ += n;
    if (newline != nullptr) {
      ++begin_;
      break;
    }
  }
  if (!any) return false;
  ++line_number_;
  if (line.ends_with('\r')) line.pop_back();
  if (line_number_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
  return true;
}

void LineReader::check_length(std::uint64_t bytes) const {
  if (bytes <= most_bytes_) return;
  user_error("{}: this document is longer than {} MiB; {}", where(), most_bytes_ >> 20, advice_);
}

std::string LineReader::where() const { return fmt::format("{}:{}", name_, std::max<std::uint64_t>(line_number_, 1)); }

}  // namespace nibble
