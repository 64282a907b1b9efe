// A recipe in words: for tables and for telling two recipes apart.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "nibble/recipe/recipe.h"

namespace nibble {

/// An operand, one phrase a column of the operand table; "" where there is nothing to say.
struct OperandWords {
  std::string element;    ///< "E2M1"
  std::string block;      ///< of the matrix as it is stored: "row", "column", "tensor", "1x16", "16x1"
  std::string scale;      ///< "nvfp4, scales to 256, four-over-six by mse"
  std::string rounding;   ///< "nearest-even"
  std::string transform;  ///< "Hadamard 128 signs call"
  std::string source;     ///< "fprop's again", "fprop's requantised"
  std::string besides;    ///< clamp, mask, carrier, folds, samples
};
OperandWords operand_words(const OperandSpec& spec);

/// A linear layer's fprop, dgrad and wgrad in formats alone: "MXFP4 x MXFP4".
std::string product_formats(const LinearRecipe& linear, Operand left);

/// Something a recipe says: what, and what of it.
struct Fact {
  std::string what;
  std::string value;
};
/// Everything beside the operands that a linear layer does, such as the weight gradient's estimator; only what is not
/// the default.
std::vector<Fact> extras(const LinearRecipe& linear);
/// What is kept in high precision, in words; only what is not the default.
std::vector<Fact> exemptions(const Recipe& recipe);
/// When the stage begins and what it does to the learning rate: "from 92 % of the steps".
std::string stage_words(const Stage& stage);
/// What layers keep from step to step or from forward to backward, beside weights, optimizer and quantised operands.
std::vector<Fact> extra_state(const Recipe& recipe);
/// All of the recipe beside name, title and source, in a fixed order; what a module rule or a stage leaves as it was is
/// left out there. Two recipes that say the same have the same facts.
std::vector<Fact> facts(const Recipe& recipe);

struct Difference {
  std::string what;
  std::string a;  ///< "-" where the recipe says nothing of it
  std::string b;
};
std::vector<Difference> differences(const Recipe& a, const Recipe& b);

}  // namespace nibble
