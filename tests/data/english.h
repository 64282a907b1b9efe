// English prose for the tests, from books in the public domain (Carroll 1865, Melville 1851, Darwin 1859, Austen 1813),
// and a small tokenizer trained on it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "nibble/data/tokenizer.h"
#include "tests/temporary_directory.h"

namespace nibble {

inline constexpr std::string_view kEnglish[] = {
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or "
    "twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, \"and "
    "what is the use of a book,\" thought Alice \"without pictures or conversations?\"\n\nSo she was considering in "
    "her "
    "own mind (as well as she could, for the hot day made her feel very sleepy and stupid), whether the pleasure of "
    "making a daisy-chain would be worth the trouble of getting up and picking the daisies, when suddenly a White "
    "Rabbit with pink eyes ran close by her.",
    "Call me Ishmael. Some years ago - never mind how long precisely - having little or no money in my purse, and "
    "nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of the "
    "world. It is a way I have of driving off the spleen and regulating the circulation. Whenever I find myself "
    "growing "
    "grim about the mouth; whenever it is a damp, drizzly November in my soul; whenever I find myself involuntarily "
    "pausing before coffin warehouses, and bringing up the rear of every funeral I meet; then, I account it high time "
    "to "
    "get to sea as soon as I can.",
    "When on board H.M.S. Beagle, as naturalist, I was much struck with certain facts in the distribution of the "
    "inhabitants of South America, and in the geological relations of the present to the past inhabitants of that "
    "continent. These facts seemed to me to throw some light on the origin of species - that mystery of mysteries, as "
    "it "
    "has been called by one of our greatest philosophers. On my return home, it occurred to me, in 1837, that "
    "something "
    "might perhaps be made out on this question by patiently accumulating and reflecting on all sorts of facts which "
    "could possibly have any bearing on it.",
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife.\n\nHowever little known the feelings or views of such a man may be on his first entering a neighbourhood, "
    "this truth is so well fixed in the minds of the surrounding families, that he is considered as the rightful "
    "property of some one or other of their daughters.\n\n\"My dear Mr. Bennet,\" said his lady to him one day, \"have "
    "you heard that Netherfield Park is let at last?\"\n\nMr. Bennet replied that he had not.",
};

/// `count` different documents: the passages, rotated by sentences and numbered.
inline std::vector<std::string> english_documents(int count) {
  std::vector<std::string> documents;
  for (int i = 0; i < count; ++i) {
    const std::string_view passage = kEnglish[static_cast<std::size_t>(i) % std::size(kEnglish)];
    const std::size_t cut = passage.find(' ', static_cast<std::size_t>(i * 37) % (passage.size() / 2));
    documents.push_back(std::string(passage.substr(cut + 1)) + " " + std::string(passage.substr(0, cut)) + "\nNo. " +
                        std::to_string(i));
  }
  return documents;
}

/// The documents as a text file with separator lines.
inline std::string joined(const std::vector<std::string>& documents) {
  std::string text;
  for (const std::string& document : documents) text += document + "\n<|endoftext|>\n";
  return text;
}

inline TokenizerTraining small_training(const TemporaryDirectory& dir) {
  TokenizerTraining options;
  options.inputs = {dir.write("training.txt", joined(english_documents(40)))};
  options.vocab_size = 420;
  options.character_coverage = 1.0;
  return options;
}

/// 420 pieces, trained once for the whole program.
inline const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::train(small_training(TemporaryDirectory()));
  return tokenizer;
}

}  // namespace nibble
