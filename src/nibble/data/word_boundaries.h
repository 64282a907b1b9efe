// Whether a SentencePiece model can be applied word by word.
#pragma once

#include <cstddef>
#include <string_view>

namespace nibble {

/// True when encoding a text as a whole provably gives the ids of its words one after the other, a word being a run of
/// spaces and what follows it up to the next space: a BPE model without normalisation rules, with a dummy space in
/// front, and with no piece in which a space follows something else. (A merge joins two neighbours to a piece, so none
/// then crosses a word's beginning, and merges within different words do not see each other.) `model` is the content of
/// a .model file; anything that is not understood gives false.
bool words_are_independent(std::string_view model);

/// The first position after `from` where a word begins, or text.size(). Spaces at the end of the text belong to the
/// word before them, and a literal U+2581, SentencePiece's sign for a space, counts as a space.
std::size_t next_word(std::string_view text, std::size_t from);

}  // namespace nibble
