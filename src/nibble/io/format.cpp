#include "nibble/io/format.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace nibble {
namespace {

constexpr const char* kNothing = "-";

std::string non_finite(double value) { return std::isnan(value) ? kNothing : value > 0 ? "inf" : "-inf"; }

/// Three significant digits without an exponent, for 0 < value < 1000.
std::string three_digits(double value) {
  return fmt::format("{:.{}f}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}

struct CodePoint {
  char32_t value;
  std::size_t bytes;
};

/// The first code point of a non-empty text; an invalid byte stands for itself.
CodePoint decode(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const std::size_t length = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 1;
  if (length == 1 || length > text.size()) return {lead, 1};
  char32_t value = lead & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (byte(i) >> 6 != 2) return {lead, 1};
    value = value << 6 | (byte(i) & 0x3Fu);
  }
  return {value, length};
}

template <std::size_t N>
bool in_ranges(char32_t c, const std::array<std::pair<char32_t, char32_t>, N>& ranges) {
  return std::any_of(ranges.begin(), ranges.end(), [c](const auto& r) { return c >= r.first && c <= r.second; });
}

std::size_t columns_of(char32_t c) {
  static constexpr std::array<std::pair<char32_t, char32_t>, 6> kCombining = {
      {{0x300, 0x36F}, {0x1AB0, 0x1AFF}, {0x1DC0, 0x1DFF}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}}};
  static constexpr std::array<std::pair<char32_t, char32_t>, 8> kWide = {{{0x1100, 0x115F},
                                                                          {0x2E80, 0xA4CF},
                                                                          {0xAC00, 0xD7A3},
                                                                          {0xF900, 0xFAFF},
                                                                          {0xFE30, 0xFE6F},
                                                                          {0xFF00, 0xFF60},
                                                                          {0x1F300, 0x1FAFF},
                                                                          {0x20000, 0x3FFFD}}};
  if (in_ranges(c, kCombining)) return 0;
  return in_ranges(c, kWide) ? 2 : 1;
}

}  // namespace

std::string format_loss(double loss) { return std::isfinite(loss) ? fmt::format("{:.4f}", loss) : non_finite(loss); }

std::string format_gap(double percent) {
  if (!std::isfinite(percent)) return non_finite(percent);
  const double rounded = std::round(percent * 100) / 100;
  return rounded == 0 ? "0.00" : fmt::format("{:+.2f}", rounded);
}

std::string format_percent(double share) {
  if (!std::isfinite(share)) return non_finite(share);
  const double percent = 100 * share;
  if (percent == 0) return "0 %";
  if (std::abs(percent) < 0.01) return fmt::format("{:.1g} %", percent);
  return fmt::format("{:.{}f} %", percent, std::abs(percent) < 9.995 ? 2 : 1);
}

std::string format_decibel(double snr_db) {
  if (std::isnan(snr_db)) return kNothing;
  return std::isinf(snr_db) ? (snr_db > 0 ? "exact" : "-inf") : fmt::format("{:.1f}", snr_db);
}

std::string format_rate(double tokens_per_second) {
  if (!std::isfinite(tokens_per_second)) return non_finite(tokens_per_second);
  if (tokens_per_second < 99.95) return three_digits(tokens_per_second);
  return format_integer(std::llround(tokens_per_second));
}

std::string format_count(double count) {
  if (!std::isfinite(count)) return non_finite(count);
  static constexpr std::array<const char*, 5> kSuffixes = {"", " k", " M", " G", " T"};
  std::size_t suffix = 0;
  double scaled = std::abs(count);
  while (scaled >= 999.5 && suffix + 1 < kSuffixes.size()) {
    scaled /= 1000;
    ++suffix;
  }
  const std::string sign = count < 0 ? "-" : "";
  if (suffix == 0 && scaled == std::floor(scaled)) return sign + fmt::format("{:.0f}", scaled);
  return sign + three_digits(scaled) + kSuffixes[suffix];
}

std::string format_integer(std::int64_t value) {
  std::string digits = std::to_string(value);
  const std::size_t first = value < 0 ? 1 : 0;
  for (std::size_t i = digits.size(); i > first + 3;) {
    i -= 3;
    digits.insert(i, 1, ',');
  }
  return digits;
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return kNothing;
  const auto s = static_cast<std::int64_t>(std::llround(std::min(seconds, 1e12)));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  if (s < 48 * 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{} d {:02} h", s / 86400, s / 3600 % 24);
}

std::string join_names(const std::vector<std::string>& names, std::string_view separator) {
  std::string text;
  for (const std::string& name : names) text.append(text.empty() ? "" : separator).append(name);
  return text.empty() ? "none" : text;
}

std::size_t display_width(std::string_view text) {
  std::size_t columns = 0;
  while (!text.empty()) {
    const CodePoint c = decode(text);
    columns += columns_of(c.value);
    text.remove_prefix(c.bytes);
  }
  return columns;
}

std::string fit_width(std::string_view text, std::size_t columns) {
  if (display_width(text) <= columns) return std::string(text);
  if (columns == 0) return {};
  std::size_t used = 0;
  std::size_t bytes = 0;
  while (bytes < text.size()) {
    const CodePoint c = decode(text.substr(bytes));
    if (used + columns_of(c.value) > columns - 1) break;
    used += columns_of(c.value);
    bytes += c.bytes;
  }
  return std::string(text.substr(0, bytes)) + "…";
}

}  // namespace nibble
