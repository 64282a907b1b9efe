// Where the ticks of an axis go and how they are written.
#pragma once

#include <string>
#include <vector>

namespace nibble {

/// Multiples of 1, 2 or 5 times a power of ten within [low, high], as many as come closest to `target`. A range of
/// width zero gives that one value. Requires finite low <= high and target >= 1.
std::vector<double> nice_ticks(double low, double high, int target);

/// Ticks for a logarithmic axis: whole decades, every k-th where there are more than `target`; with 2 and 5 times
/// each where fewer than two decades lie in the range, and nice_ticks where even those are fewer than two.
/// Requires 0 < low <= high.
std::vector<double> log_ticks(double low, double high, int target);

/// Labels of one axis: all with the decimals that tell neighbours apart, thousands as k, M, G, T where every label
/// is a multiple, 1e-5 where a decimal fraction would be long. Negative numbers have a true minus sign.
std::vector<std::string> tick_labels(const std::vector<double>& ticks);

}  // namespace nibble
