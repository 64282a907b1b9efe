// Numbers and text as a reader wants to see them. NaN (not logged) becomes "-" everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

std::string format_loss(double loss);               ///< "3.2143"; four decimals
std::string format_gap(double percent);             ///< "+0.84"; signed per cent, two decimals
std::string format_percent(double share);           ///< share in [0, 1] as "1.25 %", "0.0031 %", "0 %"
std::string format_decibel(double snr_db);          ///< "18.2", or "exact" for infinity
std::string format_rate(double tokens_per_second);  ///< "4,012"; three significant digits below 100
std::string format_count(double count);             ///< "8.12 M", "512"; three significant digits and SI suffix
std::string format_integer(std::int64_t value);     ///< "1,228,800"
std::string format_duration(double seconds);        ///< "47 s", "3:07", "2:05:09", "3 d 04 h"

/// "a, b, c"; "none" where there is nothing.
std::string join_names(const std::vector<std::string>& names, std::string_view separator = ", ");
/// The keys of a map, in its order.
template <class Map>
std::vector<std::string> names_of(const Map& map) {
  std::vector<std::string> names;
  names.reserve(map.size());
  for (const auto& item : map) names.push_back(item.first);
  return names;
}

/// Columns that a terminal needs for UTF-8 text: combining marks take none, East Asian wide characters and
/// emoji take two. Bytes that are not UTF-8 count as one column each.
std::size_t display_width(std::string_view text);
/// The longest prefix that fits into `columns`; cut text ends in an ellipsis.
std::string fit_width(std::string_view text, std::size_t columns);

}  // namespace nibble
