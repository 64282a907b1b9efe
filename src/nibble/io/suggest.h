// "Did you mean": the nearest of the names that exist to a name that does not.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

/// Edit distance with insertion, deletion, substitution and exchange of neighbours, each 1 (optimal string
/// alignment); ASCII letters compare without case.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate with the least edit distance to `word` (the first of equals), if it is near enough to be what was
/// meant: a distance of at most a third of the longer name's length, and 1 in any case. Otherwise "".
std::string nearest_name(std::string_view word, std::span<const std::string> candidates);

/// "; did you mean 'NAME'?", or "" when nothing is near: for a message about an unknown name.
std::string did_you_mean(std::string_view word, std::span<const std::string> candidates);

}  // namespace nibble
