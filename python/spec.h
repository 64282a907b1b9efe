// A QuantSpec as Python has it: what a recipe's table says of one operand.
#pragma once

#include "nibble/recipe/recipe.h"

namespace nibble::python {

struct Spec {
  Operand operand = Operand::FpropX;  ///< decides which way the contraction runs, and which random numbers are drawn
  OperandSpec spec;

  friend bool operator==(const Spec&, const Spec&) = default;
};

}  // namespace nibble::python
